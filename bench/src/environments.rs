//! What environments cost: building, carrying elsewhere as an image, and the starts of programs in them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::Args;
use hood_wire::api::{Submission, Verdict};
use serde::Deserialize;

use crate::cli::Common;
use crate::figures::{Report, Samples};
use crate::python::Python;
use crate::server::{Server, binary, ending};

/// All that are built in but `cpp`, whose image is that of `c`, and `gpu`, which runs where a GPU is.
const NAMES: [&str; 9] = ["minimal", "shell", "node", "c", "go", "rust", "data", "sandbox", "ml"];

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Environments to measure, in this order.
    #[arg(default_values = NAMES)]
    names: Vec<String>,
    /// Starts after the first and the second, for the median.
    #[arg(long, default_value_t = 20)]
    starts: u32,
    /// An image from elsewhere, as `docker save` or `podman save` writes it: imported and started too.
    #[arg(long)]
    image: Option<PathBuf>,
    /// What is started in it.
    #[arg(long, default_value = "true", requires = "image")]
    command: String,
}

/// What `fumehood env build` and `env import` say of an image.
#[derive(Debug, Deserialize)]
struct Built {
    digest: String,
    size_bytes: u64,
    files: u64,
    /// As the command took it, from its start to its end.
    #[serde(skip)]
    seconds: f64,
}

/// `fumehood env` over the images of the measured server.
struct Images {
    binary: PathBuf,
    dir: tempfile::TempDir,
}

pub(crate) async fn run(options: &Options, common: &Common) -> anyhow::Result<Report> {
    let dir = match &common.dir {
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    }
    .context("make a directory for images")?;
    let images = Images { binary: binary(common)?, dir };
    let settings = [
        format!("environments.images_dir={}", images.path("images").display()),
        // `sandbox` asks for gVisor, and is measured in what there is.
        "sandbox.policy=development".to_owned(),
    ];
    let server = Server::with(common, &settings).await?;
    let mut report = Report::new("environments", server.host(&Python::find()?).await?);
    report.setting("starts", options.starts);
    for name in &options.names {
        measure(name, (&images, &server), options.starts, &mut report)
            .await
            .with_context(|| format!("measure {name}"))?;
    }
    if let Some(image) = &options.image {
        let imported = images.import(image, "from-elsewhere")?;
        told(&mut report, image_name(image), "imported", &imported);
        let submission =
            Submission { command: Some(vec![options.command.clone()]), ..within("from-elsewhere") };
        starts(image_name(image), &submission, (&server, options.starts), &mut report).await?;
    }
    Ok(report)
}

async fn measure(
    name: &str,
    (images, server): (&Images, &Server),
    times: u32,
    report: &mut Report,
) -> anyhow::Result<()> {
    let submission = Submission { code: Some(program(name)?.to_owned()), ..within(name) };
    // Of the host's own Python, and there since the server ran its first program.
    if name != "minimal" {
        let built = images.build(name)?;
        told(report, name, "built with downloads", &built);
    }
    starts(name, &submission, (server, times), report).await?;
    images.env(&["rm", name])?;
    let again = images.build(name)?;
    told(report, name, "built without downloads", &again);
    if name == "minimal" {
        return Ok(());
    }
    let archive = images.path("carried.tar");
    let started = Instant::now();
    images.env(&["export", name, "--oci", text(&archive)?])?;
    report.figure(format!("{name}: exported"), started.elapsed().as_secs_f64(), "s");
    let size = std::fs::metadata(&archive).context("look at the archive")?.len();
    report.figure(format!("{name}: archive"), mib(size), "MiB");
    let imported = images.import(&archive, "carried")?;
    told(report, name, "imported again", &imported);
    if imported.digest != again.digest {
        report.fail(format!("{name} was {}, and is {} imported", again.digest, imported.digest));
    }
    for file in ["carried.tar", "carried.tar.cdx.json"] {
        std::fs::remove_file(images.path(file)).context("remove the archive")?;
    }
    images.env(&["rm", "carried"])?;
    images.env(&["rm", name])?;
    Ok(())
}

/// The first start in a server checks the image; the second does not.
async fn starts(
    name: &str,
    submission: &Submission,
    (server, times): (&Server, u32),
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut taken = Samples::default();
    for start in 0..times + 2 {
        let started = Instant::now();
        let ended = server.run(submission).await?;
        let ms = started.elapsed();
        if ended.verdict != Some(Verdict::Succeeded) {
            bail!(ending(&ended));
        }
        match start {
            // The server has run its first program in `minimal`.
            0 if name == "minimal" => {}
            0 => report.figure(format!("{name}: first start, to the end"), ms.as_secs_f64() * 1e3, "ms"),
            1 => report.figure(format!("{name}: second start, to the end"), ms.as_secs_f64() * 1e3, "ms"),
            _ => taken.add(ms),
        }
    }
    report.spread(&format!("{name}: later starts, to the end"), &taken);
    Ok(())
}

/// Uses what the environment is for. Those that build are built each time.
fn program(name: &str) -> anyhow::Result<&'static str> {
    Ok(match name {
        "minimal" | "sandbox" => "import json, re, math\nprint(math.pi)\n",
        "data" => "import numpy, pandas\nprint(pandas.DataFrame({'a': numpy.arange(3)}).sum())\n",
        "ml" => "import numpy, pandas, scipy, sklearn, torch\nprint(torch.arange(3).sum())\n",
        "shell" => "echo done\n",
        "node" => include_str!("../../examples/hello.js"),
        "c" => include_str!("../../examples/hello.c"),
        "cpp" => include_str!("../../examples/hello.cpp"),
        "go" => include_str!("../../examples/hello.go"),
        "rust" => include_str!("../../examples/hello.rs"),
        other => bail!("there is no program here for the environment {other}: measure one of {NAMES:?}"),
    })
}

fn within(name: &str) -> Submission {
    Submission { environment: Some(name.to_owned()), ..Submission::default() }
}

fn told(report: &mut Report, name: &str, what: &str, built: &Built) {
    report.figure(format!("{name}: {what}"), built.seconds, "s");
    report.note(format!(
        "{name}, {what}: {:.1} MiB, {} files, {}",
        mib(built.size_bytes),
        built.files,
        built.digest
    ));
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn image_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or("the image from elsewhere")
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is no text", path.display()))
}

impl Images {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn build(&self, name: &str) -> anyhow::Result<Built> {
        let started = Instant::now();
        let said = self.env(&["build", name, "-o", "json"])?;
        let seconds = started.elapsed().as_secs_f64();
        let [built]: [Built; 1] =
            serde_json::from_str(&said).with_context(|| format!("read how {name} was built"))?;
        Ok(Built { seconds, ..built })
    }

    fn import(&self, archive: &Path, name: &str) -> anyhow::Result<Built> {
        let started = Instant::now();
        let said = self.env(&["import", text(archive)?, "--name", name, "-o", "json"])?;
        let seconds = started.elapsed().as_secs_f64();
        let imported: Built = serde_json::from_str(&said).context("read how the image was imported")?;
        Ok(Built { seconds, ..imported })
    }

    fn env(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(&self.binary)
            .arg("env")
            .args(arguments)
            .env("FUMEHOOD_DATA_DIR", self.path("data"))
            .env("FUMEHOOD_ENVIRONMENTS_IMAGES_DIR", self.path("images"))
            .env("FUMEHOOD_SANDBOX_POLICY", "development")
            .stdin(Stdio::null())
            .output()
            .context("run fumehood env")?;
        if !output.status.success() {
            bail!("fumehood env {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
