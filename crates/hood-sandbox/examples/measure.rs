//! What a place costs, step by step, beside the bare program.
//!
//! `cargo run --release -p hood-sandbox --example measure -- AGENT IMAGE ROUNDS PROGRAM ARGS…`
//! where PROGRAM is an absolute path that exists on the host and in IMAGE.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hood_sandbox::{GroupLimits, Launcher, LauncherConfig, Place, PlaceSpec, SystemCalls};
use hood_wire::agent::{AgentFrame, Assignment, FrameReader, HostFrame, encode};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [agent, image, rounds, argv @ ..] = arguments.as_slice() else { return Err("see the source".into()) };
    let rounds: usize = rounds.parse()?;
    let state = std::env::temp_dir().join(format!("hood-measure-{}", std::process::id()));
    let config = LauncherConfig { state_dir: state.clone(), ids: None, cgroup_parent: None };
    let launcher = Launcher::start(&std::fs::read(agent)?, &config)?;
    let spec = PlaceSpec {
        image: PathBuf::from(image),
        disk_bytes: 64 << 20,
        disk_inodes: 4096,
        calls: SystemCalls::Ordinary,
        builds: false,
    };
    let mut times: [Vec<Duration>; 5] = Default::default();
    for _ in 0..rounds {
        let start = Instant::now();
        let mut place = launcher.prepare(&spec)?;
        times[0].push(start.elapsed());
        let start = Instant::now();
        let (bound, setup) = claim(&mut place, argv)?;
        times[1].push(bound);
        times[2].push(start.elapsed());
        times[3].push(setup);
        let start = Instant::now();
        place.destroy()?;
        times[4].push(start.elapsed());
    }
    let mut bare = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        Command::new(&argv[0]).args(&argv[1..]).stdin(Stdio::null()).output()?;
        bare.push(start.elapsed());
    }
    let names = [
        "prepare a place (beforehand)",
        "bind limits",
        "run in a waiting place",
        "of that, until exec",
        "destroy (afterwards)",
    ];
    for (name, times) in names.iter().zip(&mut times) {
        show(name, times);
    }
    show("run bare", &mut bare);
    drop(launcher);
    std::fs::remove_dir_all(state)?;
    Ok(())
}

fn show(name: &str, times: &mut [Duration]) {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
    println!("{name:30} p50 {:8.3} ms   p90 {:8.3} ms   max {:8.3} ms", at(50), at(90), at(100));
}

fn claim(place: &mut Place, argv: &[String]) -> Result<(Duration, Duration), Box<dyn std::error::Error>> {
    let start = Instant::now();
    place.bind(&GroupLimits {
        memory_bytes: 256 << 20,
        processes: 64,
        cpu_milli: None,
        build: None,
        agent_memory_bytes: GroupLimits::agent_memory(1 << 20, 0),
    })?;
    let bound = start.elapsed();
    let mut link = UnixStream::from(place.take_link().ok_or("the link is taken")?);
    link.set_nonblocking(false)?;
    let assignment = Assignment {
        argv: argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        cwd: b"/eval".to_vec(),
        wall_ms: 60_000,
        output_bytes: 1 << 20,
        open_files: 256,
        file_bytes: 1 << 30,
        orphan_after_ms: 1000,
        ..Assignment::default()
    };
    let mut bytes = Vec::new();
    let frames = [HostFrame::Assignment(assignment), HostFrame::Go, HostFrame::StdinEnd];
    for (number, frame) in (1..).zip(&frames) {
        encode(number, frame, &mut bytes);
    }
    link.write_all(&bytes)?;
    let mut reader = FrameReader::<AgentFrame>::default();
    let mut buffer = [0; 65536];
    let mut setup = Duration::ZERO;
    loop {
        let count = link.read(&mut buffer)?;
        reader.push(&buffer[..count]);
        while let Some((_, frame)) = reader.next_frame()? {
            match frame {
                AgentFrame::Started { setup_us } => setup = Duration::from_micros(setup_us),
                AgentFrame::Ended(_) => return Ok((bound, setup)),
                AgentFrame::NotStarted(early) => return Err(format!("{early:?}").into()),
                _ => {}
            }
        }
    }
}
