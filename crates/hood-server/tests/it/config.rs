//! Grey box: the configuration's public interface, with a host and an environment of the test's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hood_server::config::{Config, ConfigError, DEFAULT_FILE, Finding, Host, KEYS, Loaded, Origin, Policy};
use hood_server::config::{IdRange, Sources, reference};

fn host() -> Host {
    Host {
        root: false,
        cpus: 6,
        memory_bytes: 8 << 30,
        home: Some(PathBuf::from("/home/user")),
        xdg_data_home: None,
        xdg_config_home: None,
    }
}

struct Written {
    dir: tempfile::TempDir,
}

impl Written {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("fumehood.toml"), text).expect("written");
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("fumehood.toml")
    }

    fn sources(&self) -> Sources {
        Sources::default().with_file(self.path())
    }

    fn findings(&self) -> Vec<Finding> {
        findings(&self.sources())
    }
}

fn findings(sources: &Sources) -> Vec<Finding> {
    match Config::load(sources, &host()) {
        Err(ConfigError::Findings(findings)) => findings,
        other => panic!("expected findings, got {other:?}"),
    }
}

fn load(sources: &Sources) -> Loaded {
    Config::load(sources, &host()).expect("sound")
}

fn origin(loaded: &Loaded, key: &str) -> Origin {
    loaded.entries.iter().find(|entry| entry.key.name == key).expect("a known key").origin.clone()
}

#[test]
fn the_collectors_usual_variable_counts_below_ours() {
    let usual = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://usual:4318");
    let loaded = load(&Sources::default().with_environment(&[usual]));
    assert_eq!(loaded.config.telemetry.otlp_endpoint.expose(), "http://usual:4318");
    assert_eq!(origin(&loaded, "telemetry.otlp_endpoint"), Origin::Environment(usual.0.to_owned()));
    let ours = ("FUMEHOOD_TELEMETRY_OTLP_ENDPOINT", "http://ours:4318");
    let loaded = load(&Sources::default().with_environment(&[ours, usual]));
    assert_eq!(loaded.config.telemetry.otlp_endpoint.expose(), "http://ours:4318");
    assert!(loaded.warnings.is_empty());
}

#[test]
fn what_is_secret_in_a_url_is_in_no_message() {
    let mut sources = Sources::default();
    sources.set("telemetry.otlp_endpoint", "http://user:sesame@collector:4318", "--set");
    let loaded = load(&sources);
    assert!(!format!("{:?}", loaded.config).contains("sesame"));
    sources.set("telemetry.otlp_endpoint", "ftp://user:sesame@collector", "--set");
    let found = findings(&sources);
    assert!(found[0].to_string().contains("allowed is http://… or https://…"), "{}", found[0]);
    assert!(!found[0].to_string().contains("sesame"));
}

#[test]
fn the_default_file_read_as_a_file_changes_nothing() {
    let defaults = load(&Sources::default());
    let written = Written::new(DEFAULT_FILE);
    assert_eq!(load(&written.sources()).config, defaults.config);
    assert_eq!(defaults.config.limits.default, hood_core::Limits::DEFAULT);
    assert_eq!(defaults.config.limits.maximum, hood_core::Limits::MAXIMUM);
}

#[test]
fn flags_win_over_environment_over_file_over_defaults_and_each_says_so() {
    let written = Written::new("[worker]\nplaces = 2\nlease_ttl_ms = 2000\nqueue_ttl_ms = 2000\n");
    let mut sources = written
        .sources()
        .with_environment(&[("FUMEHOOD_WORKER_PLACES", "3"), ("FUMEHOOD_WORKER_LEASE_TTL_MS", "3000")]);
    sources.set("worker.places", "4", "--places");
    let loaded = load(&sources);
    assert_eq!(loaded.config.worker.places, 4);
    assert_eq!(loaded.config.worker.lease_ttl, Duration::from_secs(3));
    assert_eq!(loaded.config.worker.queue_ttl, Duration::from_secs(2));
    assert_eq!(origin(&loaded, "worker.places").to_string(), "flag --places");
    assert_eq!(
        origin(&loaded, "worker.lease_ttl_ms").to_string(),
        "environment FUMEHOOD_WORKER_LEASE_TTL_MS"
    );
    assert_eq!(origin(&loaded, "worker.queue_ttl_ms"), Origin::File { path: written.path(), line: 4 });
    assert_eq!(origin(&loaded, "worker.stock"), Origin::Default);
    assert_eq!(loaded.entries.len(), KEYS.len());
}

#[test]
fn auto_follows_the_host_and_says_why() {
    let user = load(&Sources::default());
    assert_eq!(user.config.data_dir, Path::new("/home/user/.local/share/fumehood"));
    assert_eq!(user.config.environments.dir, user.config.data_dir.join("environments"));
    assert_eq!((user.config.worker.places, user.config.worker.stock), (6, 6));
    assert_eq!(user.config.sandbox.policy, Policy::Development);
    assert_eq!(user.config.sandbox.id_range, None);
    assert_eq!(user.config.sandbox.memory_bytes_max, 7 << 30);
    let places = user.entries.iter().find(|entry| entry.key.name == "worker.places");
    assert_eq!(places.expect("known").note.as_deref(), Some("number of CPUs"));

    let root = Config::load(&Sources::default(), &Host { root: true, ..host() }).expect("sound").config;
    assert_eq!(root.data_dir, Path::new("/var/lib/fumehood"));
    assert_eq!(root.sandbox.policy, Policy::Strict);
    assert_eq!(root.sandbox.id_range, Some(IdRange { first: 0x7000_0000, count: 65_536 }));

    let xdg = Host { xdg_data_home: Some("/data".into()), ..host() };
    let xdg = Config::load(&Sources::default(), &xdg).expect("sound").config;
    assert_eq!(xdg.data_dir, Path::new("/data/fumehood"));
}

#[test]
fn every_mistake_is_named_at_once_with_its_line_and_what_is_allowed() {
    let written = Written::new(
        "[worker]\nplaces = \"many\"\n\n[worker.places_]\n\n[limits.default]\nwall_ms = 1\nwal_ms = 5\n\
         \n[sandbox]\npolicy = \"lax\"\n\n[server]\nlisten = \"localhost\"\nallowed_hosts = [1]\n[nonsense]\na = 1\n",
    );
    let mut found: Vec<String> = written.findings().iter().map(ToString::to_string).collect();
    let prefix = format!("{}:", written.path().display());
    for finding in &mut found {
        *finding = finding.strip_prefix(&prefix).expect("the file is named").to_owned();
    }
    found.sort();
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn what_is_not_toml_is_named_by_its_line() {
    let found = Written::new("[worker]\nplaces = \n").findings();
    assert_eq!(found.len(), 1);
    assert!(matches!(&found[0].origin, Origin::File { line: 2, .. }), "{found:?}");
    assert!(found[0].problem.starts_with("not TOML"));
}

#[test]
fn values_must_fit_each_other() {
    let found = Written::new("[limits.maximum]\nmemory_bytes = 67108864\n").findings();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].key, "limits.maximum.memory_bytes");
    assert!(found[0].problem.contains("below limits.default.memory_bytes"), "{}", found[0]);
    let found = Written::new("[store]\nstorage_bytes = 33554432\n").findings();
    assert_eq!(found[0].key, "store.storage_bytes");
    for (text, key) in [
        ("[retention]\narchive_after_days = 30\ndelete_after_days = 30\n", "retention.delete_after_days"),
        ("[blobs]\nurl = \"s3://b\"\nsecret_access_key = \"se-cret\"\n", "blobs.secret_access_key"),
        ("[blobs]\naccess_key_id = \"id\"\n", "blobs.access_key_id"),
    ] {
        let found = Written::new(text).findings();
        assert_eq!((found.len(), found[0].key.as_str()), (1, key), "{found:?}");
        assert!(!found[0].to_string().contains("se-cret"));
    }
}

#[test]
fn flags_and_variables_are_held_to_the_same_rules() {
    let mut sources = Sources::default()
        .with_environment(&[("FUMEHOOD_LOG_FORMAT", "xml"), ("FUMEHOOD_ENVIRONMENTS_BUILD", "perhaps")]);
    sources.set("worker.plces", "3", "--set");
    let found: Vec<String> = findings(&sources).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "flag --set: worker.plces is no known key; is `worker.places` meant?",
            "environment FUMEHOOD_ENVIRONMENTS_BUILD: environments.build is \"perhaps\"; \
             allowed is \"on-demand\" or \"never\"",
            "environment FUMEHOOD_LOG_FORMAT: log.format is \"xml\"; allowed is \"text\" or \"json\"",
        ]
    );
}

#[test]
fn a_variable_that_sets_nothing_is_warned_of_and_service_links_are_not_ours() {
    let sources = Sources::default().with_environment(&[
        ("FUMEHOOD_WORKER_PLACE", "3"),
        ("FUMEHOOD_SERVICE_HOST", "10.0.0.1"),
        ("FUMEHOOD_PORT_7470_TCP", "tcp://10.0.0.1:7470"),
        ("FUMEHOOD_SERVER", "http://127.0.0.1:1"),
    ]);
    assert_eq!(
        load(&sources).warnings,
        ["the environment variable FUMEHOOD_WORKER_PLACE sets nothing; is FUMEHOOD_WORKER_PLACES meant?"]
    );
}

#[test]
fn listening_to_the_world_without_a_name_for_it_is_warned_of() {
    let mut sources = Sources::default();
    sources.set("server.listen", "0.0.0.0:7470", "--listen");
    assert!(load(&sources).warnings[0].contains("server.allowed_hosts"));
    sources.set("server.allowed_hosts", "hood.example, 10.0.0.5:7470", "--set");
    let loaded = load(&sources);
    assert_eq!(loaded.warnings, [""; 0]);
    assert_eq!(loaded.config.server.allowed_hosts, ["hood.example", "10.0.0.5:7470"]);
}

#[test]
fn a_named_file_must_be_there_and_the_usual_one_need_not() {
    let missing = Sources::default().with_file("/nonexistent/fumehood.toml".into());
    assert!(matches!(Config::load(&missing, &host()), Err(ConfigError::Read { .. })));
    let usual = Sources::default().with_usual_file();
    let nowhere = Host { home: Some("/nonexistent".into()), ..host() };
    assert_eq!(Config::load(&usual, &nowhere).expect("defaults").file, None);
}

#[test]
fn the_reference_page_is_what_the_default_file_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&page, reference::markdown()).expect("written");
    }
    let committed = std::fs::read_to_string(&page).unwrap_or_default();
    assert_eq!(
        committed,
        reference::markdown(),
        "run UPDATE_REFERENCE=1 cargo test -p hood-server --test it config"
    );
}
