//! Black box: to whom the kept key goes, and whose directory it is kept in.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::shell::{Serving, Shell, text};

const SOMEBODY: u32 = 4242;

/// Listens where a server did, and writes down what it is sent.
#[derive(Debug)]
struct Impostor(Arc<Mutex<String>>);

impl Impostor {
    fn listen(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("the port is free");
        let heard = Arc::new(Mutex::new(String::new()));
        let ear = Arc::clone(&heard);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                stream.set_read_timeout(Some(Duration::from_secs(5))).expect("is set");
                let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
                while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut piece) {
                        Ok(count @ 1..) => bytes.extend_from_slice(&piece[..count]),
                        Ok(0) | Err(_) => break,
                    }
                }
                ear.lock().expect("whole").push_str(&String::from_utf8_lossy(&bytes).to_ascii_lowercase());
                // Says yes to everything.
                let proof =
                    format!(r#"{{"proof":"{}","name":"fumehood","version":"1","api":"v1"}}"#, "0".repeat(64));
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    proof.len()
                );
                let _ = stream.write_all(format!("{head}{proof}").as_bytes());
            }
        });
        Self(heard)
    }

    fn heard(&self) -> String {
        self.0.lock().expect("whole").clone()
    }
}

#[test]
fn whoever_takes_a_dead_servers_port_is_sent_no_key() {
    let shell = Shell::new();
    let serving = Serving::start(&shell, &[]);
    let address = serving.address.clone();
    let listen = address.strip_prefix("http://").expect("an address").to_owned();
    shell.file("main.py", "print(1)\n");
    // It is killed: what it announced stays.
    drop(serving);
    let announced = fs::read_to_string(shell.path("data/server.json")).expect("was announced");
    let token = fs::read_to_string(shell.path("data/token")).expect("is kept");
    let impostor = Impostor::listen(&listen);

    let (status, output) = shell.run(&["run", "--detach", "main.py", "--server", &address]);
    assert_ne!(status, 0, "{}", text(&output.stderr));
    let (status, output) = shell.run(&["run", "--detach", "main.py"]);
    let said = text(&output.stderr);
    assert!(status == 125 && said.contains("no server holds"), "{status} {said}");
    let heard = impostor.heard();
    assert!(heard.contains("get /v1/proof/"), "it was asked who it is: {heard}");
    assert!(!heard.contains("authorization") && !heard.contains(token.trim()), "{heard}");

    // While somebody else holds the directory the impostor's word counts as little.
    fs::write(shell.path("data/server.json"), announced).expect("is written");
    let lock = fs::File::open(shell.path("data/lock")).expect("is there");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("is free");
    let (status, output) = shell.run(&["list"]);
    let said = text(&output.stderr);
    assert!(status == 125 && said.contains("does not answer"), "{status} {said}");
    assert!(!impostor.heard().contains("authorization"), "{}", impostor.heard());
}

#[test]
fn a_data_directory_that_is_somebody_elses_is_not_used() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let refused = |shell: &Shell, whose: &std::path::Path| {
        for arguments in [&["list"][..], &["serve", "--listen", "127.0.0.1:0"], &["env", "list"]] {
            let (status, output) = shell.run(arguments);
            let said = text(&output.stderr);
            assert_eq!(status, 125, "{arguments:?}: {said}");
            for part in
                ["cannot use the data directory", &whose.display().to_string(), "belongs to the user 4242"]
            {
                assert!(said.contains(part), "{arguments:?}: no {part:?} in {said}");
            }
        }
    };

    let shell = Shell::new();
    let data = shell.path("data");
    fs::create_dir(&data).expect("is made");
    chown(&data, Some(SOMEBODY), Some(SOMEBODY)).expect("is given away");
    refused(&shell, &data);
    assert_eq!(fs::read_dir(&data).expect("reads").count(), 0, "nothing was laid there");

    // Laid into a directory of ours that once was open to all.
    let shell = Shell::new();
    let (data, precious) = (shell.path("data"), shell.path("precious"));
    fs::create_dir(&data).expect("is made");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).expect("is opened");
    shell.file("precious", "stays");
    let planted = data.join("token.new");
    symlink(&precious, &planted).expect("is laid");
    std::os::unix::fs::lchown(&planted, Some(SOMEBODY), Some(SOMEBODY)).expect("is theirs");
    refused(&shell, &planted);
    assert_eq!(fs::read_to_string(&precious).expect("is there"), "stays");
    assert_eq!(fs::metadata(&data).expect("is there").mode() & 0o777, 0o777, "nothing was changed");

    // A link of theirs to a directory of ours.
    let shell = Shell::new();
    fs::create_dir(shell.path("ours")).expect("is made");
    let data = shell.path("data");
    symlink(shell.path("ours"), &data).expect("is laid");
    std::os::unix::fs::lchown(&data, Some(SOMEBODY), Some(SOMEBODY)).expect("is theirs");
    refused(&shell, &data);
}
