//! White box: what becomes of layers laid over each other.

use crate::make::{Bench, CHAR, FIFO, FILE, HARD, Image, Layer, merged, named, pax, raw, seal};

#[test]
fn a_whiteout_hides_what_is_below_and_not_what_is_beside_it() {
    let below =
        Layer::new().file("a/1", "x").file("a/2", "x").file("b/1", "x").file("c/d/1", "x").file("e", "x");
    let above = Layer::new()
        .file("a/.wh.1", "")
        .file("a/.wh.nothing", "")
        // The order in a layer means nothing.
        .file("a/2", "new")
        .file("a/.wh.2", "")
        .file("b/new", "new")
        .file(".wh.b", "")
        .file(".wh.c", "")
        .file("gone/.wh.x", "")
        .file(".wh.e", "")
        .file("e/f", "now a directory");
    let tree = merged(&[below, above]);
    assert_eq!(named(&tree), [("a/2", "644 new"), ("b/new", "644 new"), ("e/f", "644 now a directory")]);
}

#[test]
fn an_opaque_directory_begins_anew() {
    let below = Layer::new().file("d/old", "x").file("d/sub/old", "x").file("keep", "x");
    let first = Layer::new().file("d/new", "1").file("d/sub/new", "1").file("d/.wh..wh..opq", "");
    let tree = merged(&[below.clone(), first.clone()]);
    assert_eq!(named(&tree), [("d/new", "644 1"), ("d/sub/new", "644 1"), ("keep", "644 x")]);
    // Its own layer's files are the next one's to hide.
    let second = Layer::new().file("d/.wh..wh..opq", "").file("d/.wh..wh.plnk", "");
    let tree = merged(&[below, first, second]);
    assert_eq!(named(&tree), [("keep", "644 x")]);
}

#[test]
fn a_hard_link_is_the_file_that_it_was_made_of() {
    let below = Layer::new().file("a", "one").link("dir", "real").file("real/b", "two");
    let above = Layer::new()
        .hard("c", "/a")
        .hard("d", "./c")
        .hard("e", "dir/b")
        // Of a path that later is another file, and of one that is hidden.
        .file("a", "three")
        .file("real/.wh.b", "")
        .link("l", "nowhere")
        .hard("m", "l")
        .hard("d", "d");
    let tree = merged(&[below, above]);
    let expected = [
        ("a", "644 three"),
        ("c", "644 one"),
        ("d", "644 one"),
        ("dir", "-> real"),
        ("e", "644 two"),
        ("l", "-> nowhere"),
        ("m", "-> nowhere"),
    ];
    assert_eq!(named(&tree), expected);
}

#[test]
fn a_hard_link_to_what_is_hidden_is_refused() {
    let below = Layer::new().file("a", "one").dir("d/");
    for above in [
        Layer::new().file(".wh.a", "").hard("b", "a"),
        Layer::new().hard("b", "nothing"),
        Layer::new().hard("b", "d"),
        Layer::new().hard("b", "/"),
        Layer::new().hard("b", "a/x"),
        Layer::new().hard("b", "b"),
    ] {
        let bench = Bench::new();
        let error = bench.unpack(&Image::new(&[below.clone(), above]).docker()).expect_err("no target");
        assert!(error.to_string().contains("is a hard link to"), "{error}");
        bench.assert_untouched("hard link");
    }
}

#[test]
fn a_link_on_the_way_leads_within_the_image() {
    let below = Layer::new()
        .dir("usr/lib/")
        .link("lib", "usr/lib")
        .link("abs", "/usr/lib")
        .link("up", "../../../../usr/./lib")
        .link("far", "/not/there/yet")
        .link("chain", "lib/../../lib");
    let above = Layer::new()
        .file("lib/1", "x")
        .file("abs/2", "x")
        .file("up/3", "x")
        .file("far/4", "x")
        .file("chain/5", "x")
        .file("lib/gone", "x")
        .file("usr/lib/.wh.2", "");
    let last = Layer::new().file("abs/.wh.gone", "");
    let tree = merged(&[below, above, last]);
    let expected = [
        ("abs", "-> /usr/lib"),
        ("chain", "-> lib/../../lib"),
        ("far", "-> /not/there/yet"),
        ("lib", "-> usr/lib"),
        ("not/there/yet/4", "644 x"),
        ("up", "-> ../../../../usr/./lib"),
        ("usr/lib/1", "644 x"),
        ("usr/lib/2", "644 x"),
        ("usr/lib/3", "644 x"),
        ("usr/lib/5", "644 x"),
    ];
    assert_eq!(named(&tree), expected);
}

#[test]
fn the_last_of_two_counts_whatever_it_is() {
    let below =
        Layer::new().file("a", "x").dir("b/").file("b/c", "x").link("d", "b").file("e", "1").file("e", "2");
    let above = Layer::new().dir("a/").file("b", "file").dir("d/").file("d/own", "x").link("e", "a");
    let tree = merged(&[below, above]);
    assert_eq!(named(&tree), [("b", "644 file"), ("d/own", "644 x"), ("e", "-> a")]);
}

#[test]
fn names_may_be_long_and_hold_any_byte() {
    let long = format!("long/{}/{}", "n".repeat(200), "m".repeat(200));
    let odd: &[u8] = b"odd/new\nline\t\x1b[31m\xff\xfe\\";
    let gnu = |kind: u8, name: &[u8]| raw(kind, b"././@LongLink", b"", 0o644, &[name, b"\0"].concat());
    let layer = Layer::new()
        .raw(&gnu(b'L', format!("{long}/gnu").as_bytes()))
        .file("cut", "gnu")
        .raw(&gnu(b'K', long.as_bytes()))
        .link("gnu-link", "cut")
        .raw(&pax(&[("path", format!("{long}/pax").as_bytes())]))
        .file("cut", "pax")
        .raw(&pax(&[("linkpath", odd), ("path", b"pax-link")]))
        .link("cut", "cut")
        .raw(&raw(FILE, odd, b"", 0o644, b"odd"))
        .file("/absolute//./path", "abs");
    let tree = merged(&[layer]);
    let odd_shown = odd.escape_ascii().to_string();
    let expected = [
        ("absolute/path".to_owned(), "644 abs".to_owned()),
        ("gnu-link".to_owned(), format!("-> {long}")),
        (format!("{long}/gnu"), "644 gnu".to_owned()),
        (format!("{long}/pax"), "644 pax".to_owned()),
        (odd_shown.clone(), "644 odd".to_owned()),
        ("pax-link".to_owned(), format!("-> {odd_shown}")),
    ];
    assert_eq!(tree, expected);
}

#[test]
fn holes_are_zeros_in_every_format_of_sparse_files() {
    // Four bytes, six of nothing, two bytes, and a hole at the end.
    let data = b"headxx";
    let mut old = raw(b'S', b"old", b"", 0o644, data);
    let number = |value: u64| format!("{value:011o}\0").into_bytes();
    for (at, value) in [(386, 0), (398, 4), (410, 10), (422, 2), (483, 20)] {
        old[at..at + 12].copy_from_slice(&number(value));
    }
    old[257..265].copy_from_slice(b"ustar  \0");
    seal(&mut old);
    let one = [b"2\n0\n4\n10\n2\n".as_slice(), &[0; 501], data].concat();
    let layer = Layer::new()
        .raw(&old)
        .raw(&pax(&[
            ("GNU.sparse.map", b"0,4,10,2"),
            ("GNU.sparse.size", b"20"),
            ("GNU.sparse.name", b"pax01"),
        ]))
        .raw(&raw(FILE, b"GNUSparseFile.0/pax01", b"", 0o644, data))
        .raw(&pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"20"),
            ("GNU.sparse.name", b"pax10"),
        ]))
        .raw(&raw(FILE, b"GNUSparseFile.0/pax10", b"", 0o644, &one))
        .file("after", "x");
    let tree = merged(&[layer]);
    let content = "644 head\\x00\\x00\\x00\\x00\\x00\\x00xx\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00";
    assert_eq!(named(&tree), [("after", "644 x"), ("old", content), ("pax01", content), ("pax10", content)]);
}

#[test]
fn devices_set_id_bits_and_attributes_stay_behind() {
    let below = Layer::new().file("was", "x").file("dev/x", "x").file("tmp/x", "x").file("proc/x", "x");
    let above = Layer::new()
        .raw(&raw(CHAR, b"null", b"", 0o666, b""))
        .raw(&raw(b'4', b"disk", b"", 0o666, b""))
        .raw(&raw(FIFO, b"was", b"", 0o666, b""))
        .raw(&raw(FILE, b"su", b"", 0o4755, b"x"))
        .raw(&raw(FILE, b"sg", b"", 0o2600, b"x"))
        .raw(&pax(&[("SCHILY.xattr.security.capability", b"\x01\0\0\x02\n")]))
        .raw(&raw(FILE, b"ping", b"", 0o755, b"x"))
        .link("run", "/proc/self")
        .link("eval", "/etc")
        .file("sys/kernel", "x")
        .file(".fumehood/agent", "x");
    let bench = Bench::new();
    let unpacked = bench.unpack(&Image::new(&[below, above]).docker()).expect("sound");
    let tree = bench.tree();
    assert_eq!(named(&tree), [("ping", "755 x"), ("run", "-> /proc/self"), ("sg", "644 x"), ("su", "755 x")]);
    let left = unpacked.left_out;
    assert_eq!((left.devices, left.set_id, left.attributes), (3, 2, 1));
}

#[test]
fn a_hard_link_is_a_file_of_its_own() {
    use std::os::unix::fs::MetadataExt as _;
    let layer = Layer::new().program("a", b"x").raw(&raw(HARD, b"b", b"a", 0o600, b""));
    let bench = Bench::new();
    let unpacked = bench.unpack(&Image::new(&[layer]).docker()).expect("sound");
    assert_eq!((unpacked.files, unpacked.bytes), (2, 2));
    for name in ["a", "b"] {
        assert_eq!(std::fs::metadata(bench.root().join(name)).expect("there").nlink(), 1);
    }
}
