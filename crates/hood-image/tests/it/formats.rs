//! White box: every form in which an image may come.

use std::fs::File;
use std::io::Write as _;

use hood_image::{Bounds, Digest, ImageError};
use serde_json::json;

use crate::make::{Bench, FILE, Image, LINK, Layer, gzip, layout, named, raw, zstd};

fn layers() -> [Layer; 2] {
    [
        Layer::new().dir("bin/").program("bin/app", b"#!").file("etc/a", "one"),
        Layer::new().file("etc/a", "two").link("bin/python3", "/bin/app"),
    ]
}

fn assert_whole(bench: &Bench) {
    let tree = bench.tree();
    let expected = [
        ("bin", "dir"),
        ("bin/app", "755 #!"),
        ("bin/python3", "-> /bin/app"),
        ("etc", "dir"),
        ("etc/a", "644 two"),
    ];
    assert_eq!(named(&tree), expected);
}

#[test]
fn each_format_and_packing_gives_the_same_image() {
    type Pack = fn(&[u8]) -> Vec<u8>;
    let packings: [(&str, Pack); 3] = [("plain", <[u8]>::to_vec), ("gzip", gzip), ("zstd", zstd)];
    for (packing, pack) in packings {
        let image = Image::packed(&layers(), pack);
        for (format, archive) in [("docker", image.docker()), ("oci", image.layout())] {
            for (outer, archive) in
                [("plain", archive.clone()), ("gzip", gzip(&archive)), ("zstd", zstd(&archive))]
            {
                let bench = Bench::new();
                let unpacked = bench
                    .unpack(&archive)
                    .unwrap_or_else(|error| panic!("{format}, layers {packing}, archive {outer}: {error}"));
                assert_whole(&bench);
                assert_eq!((unpacked.layers, unpacked.files, unpacked.bytes), (2, 2, 5));
            }
        }
    }
}

#[test]
fn a_pipe_will_do() {
    let (read, mut write) = std::io::pipe().expect("a pipe");
    let archive = Image::new(&layers()).docker();
    let writing = std::thread::spawn(move || write.write_all(&archive));
    let bench = Bench::new();
    let input = File::from(std::os::fd::OwnedFd::from(read));
    bench.unpack_file(input, None, &Bounds::DEFAULT).expect("sound");
    writing.join().expect("ended").expect("written");
    assert_whole(&bench);
}

#[test]
fn what_the_image_says_of_its_program_comes_along() {
    let image = Image::new(&layers());
    let unpacked = Bench::new().unpack(&image.layout()).expect("sound");
    let config = unpacked.config;
    assert_eq!(config.entrypoint, ["/bin/app"]);
    assert_eq!(config.cmd, ["--help"]);
    let env =
        [("PATH", "/opt/bin:/bin"), ("EMPTY", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(config.env, env);
    assert_eq!((config.user.as_str(), config.workdir.as_str()), ("app", "/srv"));
    assert!(unpacked.has_python, "through a link, on the image's own PATH");
    assert_eq!(unpacked.digest, image.blobs().1["digest"]);
    let docker = Bench::new().unpack(&image.docker()).expect("sound");
    assert_eq!(docker.digest, Digest::of(image.config.to_string().as_bytes()).to_string());

    // Where a place mounts its own: what is there then will do, and nothing beneath it is.
    for (workdir, fits) in
        [("/tmp", true), ("/eval", true), ("/tmp/x", false), ("/sys", false), ("/link", false)]
    {
        let mut image = Image::new(&[Layer::new().link("link", "/dev/shm/x")]);
        image.config["config"]["WorkingDir"] = json!(workdir);
        let unpacked = Bench::new().unpack(&image.layout());
        assert_eq!(unpacked.is_ok(), fits, "{workdir}: {unpacked:?}");
    }

    let without = Layer::new().link("bin/python3", "python3").file("usr/bin/python3", "not executable");
    let mut image = Image::new(&[without]);
    image.config["config"] = json!(null);
    assert!(!Bench::new().unpack(&image.layout()).expect("sound").has_python);
}

#[test]
fn a_layer_that_two_images_share_may_be_a_link() {
    let image = Image::new(&layers());
    let config = image.config.to_string();
    let manifest =
        json!([{"Config": "config.json", "RepoTags": null, "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    let archive = Layer::new()
        .raw(&raw(LINK, b"a/layer.tar", b"../shared/0.tar", 0o777, b""))
        .raw(&raw(FILE, b"./shared/0.tar", b"", 0o644, &image.layers[0].1))
        .raw(&raw(FILE, b"b/layer.tar", b"", 0o644, &image.layers[1].1))
        .file("config.json", &config)
        .file("manifest.json", &manifest.to_string());
    let bench = Bench::new();
    bench.unpack(&archive.tar()).expect("sound");
    assert_whole(&bench);
}

#[test]
fn of_several_platforms_this_machines_is_taken() {
    let (mut blobs, mut here) = Image::new(&layers()).blobs();
    here["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut other = Image::new(&[Layer::new().file("x", "arm")]);
    other.config["architecture"] = json!("arm64");
    let (more, mut there) = other.blobs();
    blobs.extend(more);
    there["platform"] = json!({"os": "linux", "architecture": "arm64"});
    let mut attestation = there.clone();
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let index = json!({"manifests": [there, attestation, here]}).to_string();
    let digest = Digest::of(index.as_bytes());
    blobs.push((format!("blobs/sha256/{}", digest.hex()), index.clone().into_bytes()));
    let nested = json!({
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": digest.to_string(), "size": index.len(),
    });
    let bench = Bench::new();
    bench.unpack(&layout(&blobs, &[nested])).expect("sound");
    assert_whole(&bench);

    let bench = Bench::new();
    let error = bench.unpack(&layout(&blobs, &[there])).expect_err("not for this machine");
    assert!(error.to_string().contains("linux/arm64"), "{error}");
    // Neither does a manifest without a platform hide it.
    let error = bench.unpack(&other.docker()).expect_err("not for this machine");
    assert!(matches!(error, ImageError::Unsupported { .. }), "{error}");
    bench.assert_untouched("another machine's");
}

#[test]
fn of_several_images_one_must_be_named() {
    let name = |value: &mut serde_json::Value, name: &str| {
        value["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    };
    let (mut blobs, mut first) = Image::new(&layers()).blobs();
    let (more, mut second) = Image::new(&[Layer::new().file("x", "y")]).blobs();
    blobs.extend(more);
    name(&mut first, "app:1");
    name(&mut second, "app:2");
    let archive = layout(&blobs, &[first, second]);
    let bench = Bench::new();
    let error = bench.unpack(&archive).expect_err("which?");
    assert!(error.to_string().contains("app:1, app:2"), "{error}");
    let error = bench.unpack_with(&archive, Some("app:3"), &Bounds::DEFAULT).expect_err("not there");
    assert!(error.to_string().contains("app:3") && error.to_string().contains("app:2"), "{error}");
    bench.assert_untouched("no choice");
    bench.unpack_with(&archive, Some("app:1"), &Bounds::DEFAULT).expect("named");
    assert_whole(&bench);
}
