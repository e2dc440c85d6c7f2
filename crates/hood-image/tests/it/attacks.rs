//! White box: archives that nobody meant well. Each must end in an error that says what is wrong,
//! before a byte is written.

use hood_image::{Bounds, Digest, ImageError};
use serde_json::json;

use crate::make::{Bench, FILE, HARD, Image, LINK, Layer, gzip, layout, pax, raw, seal, zstd};

fn refused(what: &str, archive: &[u8], bounds: &Bounds) -> ImageError {
    let bench = Bench::new();
    let error = match bench.unpack_with(archive, None, bounds) {
        Err(error) => error,
        Ok(_) => panic!("{what} was taken"),
    };
    bench.assert_untouched(what);
    error
}

fn image(layer: Layer) -> Vec<u8> {
    Image::new(&[layer]).docker()
}

#[test]
fn no_path_leads_out() {
    let name = |name: &[u8]| Layer::new().raw(&raw(FILE, name, b"", 0o644, b"dead"));
    for (what, layer) in [
        ("..", name(b"../canary")),
        ("a/../../canary", name(b"a/../../canary")),
        ("trailing ..", name(b"a/..")),
        ("the root", name(b"/")),
        ("no name", name(b"")),
        ("a dot", name(b".")),
        ("a NUL", Layer::new().raw(&pax(&[("path", b"a\0b")])).file("a", "")),
        ("a hard link's ..", Layer::new().raw(&raw(HARD, b"a", b"../canary", 0o644, b""))),
        ("a whiteout of ..", name(b".wh...")),
        ("a whiteout of nothing", name(b".wh.")),
        ("a link to nothing", Layer::new().raw(&raw(LINK, b"a", b"", 0o777, b""))),
        ("a link to itself", Layer::new().link("a", "a").file("a/b", "")),
        ("links in a ring", Layer::new().link("a", "b").link("b", "a").file("a/b", "")),
        ("beneath a whiteout", name(b".wh.a/b")),
        ("beneath a file", Layer::new().file("a", "").file("a/b", "")),
    ] {
        let error = refused(what, &image(layer), &Bounds::DEFAULT);
        assert!(matches!(error, ImageError::Malformed { .. }), "{what}: {error}");
    }
}

#[test]
fn links_out_of_the_image_lead_nowhere() {
    let layer = Layer::new()
        .link("out", "../../canary")
        .link("abs", "/etc/passwd")
        .link("dir", "../..")
        .file("dir/canary", "dead")
        .file("abs/x", "dead");
    let bench = Bench::new();
    bench.unpack(&image(layer)).expect("nothing wrong with it");
    assert_eq!(std::fs::read_to_string(bench.root().join("canary")).expect("within"), "dead");
    assert_eq!(std::fs::read_to_string(bench.root().join("../canary")).expect("outside"), "alive");
    assert_eq!(std::fs::read_to_string(bench.root().join("etc/passwd/x")).expect("within"), "dead");
}

#[test]
fn each_bound_is_held() {
    let bounds = Bounds::DEFAULT;
    let files =
        |count: usize| (0..count).fold(Layer::new(), |layer, i| layer.file(&format!("f{i}"), "12345678"));
    let deep = Layer::new().file("a/b/c/d/e", "");
    let through_links = Layer::new().link("l", "a/b/c").file("l/d/e", "");
    let whole = image(files(10));
    let links = (0..9).fold(Layer::new().file("f", "12345678"), |layer, i| layer.hard(&format!("l{i}"), "f"));
    let sparse = Layer::new()
        .raw(&pax(&[("GNU.sparse.map", b"0,0"), ("GNU.sparse.size", b"99999999999")]))
        .raw(&raw(FILE, b"x", b"", 0o644, b""));
    let replaced = (0..10).fold(Layer::new(), |layer, _| layer.file("same", "x"));
    let many = vec![Layer::new().dir("d/"); 10];
    for (what, archive, bounds) in [
        ("bytes in its archive", &whole, Bounds { archive_bytes: whole.len() as u64 - 1, ..bounds }),
        ("bytes in its archive", &gzip(&whole), Bounds { archive_bytes: whole.len() as u64 - 1, ..bounds }),
        ("bytes", &whole, Bounds { bytes: 79, ..bounds }),
        ("bytes", &image(links), Bounds { bytes: 79, ..bounds }),
        ("bytes", &image(sparse), bounds),
        ("bytes in its layers", &whole, Bounds { layer_bytes: 10 * 1024, ..bounds }),
        // Ten files, the image's own directory, and the four that are always there.
        ("inodes", &whole, Bounds { inodes: 14, ..bounds }),
        ("entries in its layers", &image(replaced), Bounds { entries: 9, ..bounds }),
        ("layers", &Image::new(&many).docker(), Bounds { layers: 9, ..bounds }),
        ("layers", &Image::new(&many).layout(), Bounds { layers: 9, ..bounds }),
        ("components in a path", &image(deep), Bounds { depth: 4, ..bounds }),
        ("components in a path", &image(through_links), Bounds { depth: 4, ..bounds }),
        (
            "bytes in a name",
            &image(Layer::new().file(&"n".repeat(90), "")),
            Bounds { name_bytes: 89, ..bounds },
        ),
        (
            "bytes in a path",
            &image(Layer::new().file(&"a/".repeat(41), "")),
            Bounds { path_bytes: 80, ..bounds },
        ),
        (
            "bytes in a link's target",
            &image(Layer::new().link("a", &"t".repeat(81))),
            Bounds { path_bytes: 80, ..bounds },
        ),
        ("bytes in a manifest or configuration", &whole, Bounds { document_bytes: 50, ..bounds }),
        (
            "bytes in the header of an entry",
            &image(Layer::new().raw(&pax(&[("comment", &[b'x'; 99])])).file("a", "")),
            Bounds { header_bytes: 99, ..bounds },
        ),
    ] {
        match refused(what, archive, &bounds) {
            ImageError::TooLarge { what: found, .. } => assert_eq!(found, what),
            other => panic!("{what}: {other}"),
        }
    }
    let exact = Bounds {
        archive_bytes: whole.len() as u64,
        bytes: 80,
        inodes: 15,
        entries: 10,
        layers: 1,
        // A file in the directory where its program runs.
        depth: 2,
        layer_bytes: 10 * 1024 + 1024,
        ..bounds
    };
    Bench::new().unpack_with(&whole, None, &exact).expect("all within");
}

#[test]
fn a_bomb_does_not_go_off() {
    const LARGE: usize = 4 << 20;
    let bounds = Bounds { ratio_free_bytes: 1 << 20, ..Bounds::DEFAULT };
    let zeros = "\0".repeat(LARGE);
    let layer = Layer::new().file("zeros", &zeros);
    for (what, pack) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd)] {
        let archive = Image::packed(std::slice::from_ref(&layer), pack).docker();
        assert!(archive.len() < LARGE / 500);
        let error = refused(what, &archive, &bounds);
        assert!(error.to_string().contains("for each byte of its archive"), "{error}");
    }
    // A bomb of names: hard links to one file.
    let layer = Layer::new().file("f", &"\0".repeat(1 << 17));
    let layer = (0..200).fold(layer, |layer, i| layer.hard(&format!("l{i}"), "f"));
    let error = refused("links", &Image::packed(&[layer], gzip).docker(), &bounds);
    assert!(error.to_string().contains("for each byte of its archive"), "{error}");
    // An archive that is one itself.
    let archive = gzip(&image(Layer::new().file("zeros", &zeros)));
    let bounds = Bounds { archive_bytes: 1 << 20, ..bounds };
    refused("an outer bomb", &archive, &bounds);
}

#[test]
fn headers_that_lie_about_lengths_are_caught() {
    let with = |at: usize, bytes: &[u8]| {
        let mut entry = raw(FILE, b"a", b"", 0o644, b"data");
        entry[at..at + bytes.len()].copy_from_slice(bytes);
        seal(&mut entry);
        image(Layer::new().raw(&entry))
    };
    let huge_pax = raw(b'x', b"pax", b"", 0o644, b"");
    let mut huge_pax = huge_pax;
    huge_pax[124..136].copy_from_slice(b"77777777777\0");
    seal(&mut huge_pax);
    let endless_map =
        [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")];
    let ones = [b'1'; 4096];
    for (what, archive) in [
        ("a size beyond the end", with(124, b"77777777777\0")),
        ("a size of 2^63", with(124, b"\x80\0\0\0\x80\0\0\0\0\0\0\0")),
        ("a size that is no number", with(124, b"zzz")),
        ("a mode that is no number", with(100, b"zzz")),
        ("a wrong checksum", {
            let mut archive = raw(FILE, b"a", b"", 0o644, b"data");
            archive[0] = b'b';
            image(Layer::new().raw(&archive))
        }),
        ("an extended header of 8 GiB", image(Layer::new().raw(&huge_pax))),
        (
            "an extended size",
            image(Layer::new().raw(&pax(&[("size", b"18446744073709551615")])).file("a", "x")),
        ),
        ("an unknown type", image(Layer::new().raw(&raw(b'M', b"a", b"", 0o644, b"")))),
        (
            "an extended header that is none",
            image(Layer::new().raw(&raw(b'x', b"a", b"", 0o644, b"99 a=b\n"))),
        ),
        (
            "a sparse map without an end",
            image(Layer::new().raw(&pax(&endless_map)).raw(&raw(FILE, b"a", b"", 0o644, &ones))),
        ),
        (
            "a sparse map of other data",
            image(
                Layer::new()
                    .raw(&pax(&[("GNU.sparse.map", b"0,9"), ("GNU.sparse.size", b"9")]))
                    .file("a", "x"),
            ),
        ),
    ] {
        refused(what, &archive, &Bounds::DEFAULT);
    }
}

#[test]
fn no_cut_archive_is_taken() {
    let image = Image::packed(&[Layer::new().file("a", "x").link("b", "a")], gzip);
    for archive in [image.docker(), image.layout()] {
        // The last 1024 bytes only say that nothing follows.
        for length in (0..archive.len() - 1024).step_by(61) {
            refused(&format!("{length} bytes"), &archive[..length], &Bounds::DEFAULT);
        }
    }
}

#[test]
fn no_changed_bit_goes_unnoticed() {
    let image = Image::new(&[Layer::new().file("a", "content")]);
    let (blobs, manifest) = image.blobs();
    for (i, (_, blob)) in blobs.iter().enumerate() {
        for at in (0..blob.len()).step_by(23) {
            let mut changed = blobs.clone();
            changed[i].1[at] ^= 1;
            let error = refused(
                "a changed bit",
                &layout(&changed, std::slice::from_ref(&manifest)),
                &Bounds::DEFAULT,
            );
            // In a layer, a header may be seen to be wrong before all of it was read.
            let noticed = matches!(error, ImageError::WrongDigest { .. } | ImageError::Malformed { .. });
            assert!(noticed, "{error}");
        }
    }
    let mut wrong = image.clone();
    wrong.config["rootfs"]["diff_ids"][0] = json!(Digest::of(b"other").to_string());
    for archive in [wrong.docker(), wrong.layout()] {
        let error = refused("another diff_id", &archive, &Bounds::DEFAULT);
        assert!(matches!(error, ImageError::WrongDigest { .. }), "{error}");
    }
    let mut trailing = Image::packed(&[Layer::new().file("a", "x")], gzip);
    trailing.layers[0].1.extend_from_slice(b"more");
    refused("bytes after a layer's end", &trailing.layout(), &Bounds::DEFAULT);
}

#[test]
fn documents_that_make_no_sense_are_refused() {
    let sound = Image::new(&[Layer::new().file("a", "x")]);
    let (blobs, manifest) = sound.blobs();
    let change = |key: &str, value: serde_json::Value| {
        let mut manifest = manifest.clone();
        manifest[key] = value;
        layout(&blobs, &[manifest])
    };
    let config = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut image = sound.clone();
        change(&mut image.config);
        image.docker()
    };
    let foreign =
        Image { layer_type: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", ..sound.clone() };
    let index = "application/vnd.oci.image.index.v1+json";
    for (what, archive) in [
        ("nothing", Vec::new()),
        ("text", b"hello, this is no archive".to_vec()),
        ("an empty tar", vec![0; 1024]),
        ("a tar of something else", Layer::new().file("a", "x").tar()),
        ("a file twice", Layer::new().file("manifest.json", "[]").file("./manifest.json", "[]").tar()),
        ("no image", Layer::new().file("manifest.json", "[]").tar()),
        ("no JSON", Layer::new().file("manifest.json", "{").tar()),
        ("JSON without a bottom", Layer::new().file("manifest.json", &"[".repeat(100_000)).tar()),
        (
            "a missing configuration",
            Layer::new().file("manifest.json", r#"[{"Config":"x","Layers":[]}]"#).tar(),
        ),
        ("a member out of the archive", Layer::new().link("manifest.json", "../x").tar()),
        ("members in a ring", Layer::new().link("manifest.json", "manifest.json").tar()),
        ("no digest", change("digest", json!("sha256:../../../../etc/passwd"))),
        ("another size", change("size", json!(1))),
        ("another media type", change("mediaType", json!("application/octet-stream"))),
        ("a manifest as an index", change("mediaType", json!(index))),
        ("a layer that lies elsewhere", foreign.layout()),
        ("fewer layers", config(&|config| config["rootfs"]["diff_ids"] = json!([]))),
        ("another system", config(&|config| config["os"] = json!("windows"))),
        ("a variable without a name", config(&|config| config["config"]["Env"] = json!(["=x"]))),
        ("a NUL in an argument", config(&|config| config["config"]["Cmd"] = json!(["a\0b"]))),
        ("a relative directory", config(&|config| config["config"]["WorkingDir"] = json!("../.."))),
        (
            "a directory that a place mounts",
            config(&|config| config["config"]["WorkingDir"] = json!("/tmp/x")),
        ),
        ("too many arguments", config(&|config| config["config"]["Cmd"] = json!(vec!["x"; 2000]))),
        ("arguments too long", config(&|config| config["config"]["Cmd"] = json!(["x".repeat(200_000)]))),
    ] {
        refused(what, &archive, &Bounds::DEFAULT);
    }
}

#[test]
fn indexes_in_indexes_come_to_an_end() {
    let (mut blobs, mut inner) = Image::new(&[Layer::new().file("a", "x")]).blobs();
    for _ in 0..10 {
        let index = json!({"manifests": [inner, inner]}).to_string();
        let digest = Digest::of(index.as_bytes());
        blobs.push((format!("blobs/sha256/{}", digest.hex()), index.clone().into_bytes()));
        inner = json!({
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": digest.to_string(), "size": index.len(),
        });
    }
    let error = refused("indexes", &layout(&blobs, &[inner]), &Bounds::DEFAULT);
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
}
