use hood_core::Timestamp;
use hood_core::limits::Limit;
use hood_core::plan::{Capacity, ExecutorClass, Layer, Offer, PlaceKind, PolicyMode};
use hood_wire::api::{EnvironmentState, InputFile};

use super::*;
use crate::api::config::ApiLimits;
use crate::api::guard::HostPolicy;
use crate::config::Builds;
use crate::document::CatalogueDocument;
use crate::webhook::Rules;

fn environment(name: &str) -> api::Environment {
    api::Environment {
        name: name.to_owned(),
        description: String::new(),
        state: EnvironmentState::Ready,
        digest: None,
        size_bytes: None,
        base: "host-python".to_owned(),
        isolation: "namespace".to_owned(),
        system_calls: "ordinary".to_owned(),
        portable: false,
        security: None,
        progress: None,
        interpreter: None,
        packages: Vec::new(),
        code: None,
        image: None,
        default_limits: limits_to_wire(&Limits::DEFAULT, &[]),
        maximum_limits: limits_to_wire(&Limits::MAXIMUM, &[]),
        allowed_classes: vec!["cpu".to_owned()],
        default: name == "minimal",
        error: None,
        error_lasts: false,
    }
}

fn capacity() -> Capacity {
    Capacity {
        version: 1,
        taken_at: Timestamp::from_micros(0),
        kind: PlaceKind::LocalRoot,
        classes: vec![ExecutorClass::Cpu],
        proven: Layer::ALL.to_vec(),
        unproven: Vec::new(),
        memory_bytes_max: Limits::MAXIMUM.memory_bytes,
        places: 2,
    }
}

fn catalogue(capacity: Capacity, environments: Vec<api::Environment>) -> Catalogue {
    let offer =
        Offer { executor: "one".to_owned(), free: capacity.places, open: true, environments: None, capacity };
    Catalogue::new(1, Timestamp::from_micros(0), CatalogueDocument::new(&[offer], environments))
}

fn config() -> ApiConfig {
    let hosts = HostPolicy::new("127.0.0.1:80".parse().expect("an address"), &[]);
    ApiConfig {
        policy: PolicyMode::Strict,
        hosts,
        queue_max: 10,
        request_bytes_in_rows_max: usize::MAX,
        builds: Builds::OnDemand,
        webhooks: Rules::default(),
        limits: ApiLimits::default(),
    }
}

fn admit(submission: Submission) -> Result<Admitted, ApiError> {
    let catalogue = catalogue(capacity(), vec![environment("minimal"), environment("ml")]);
    Admission { catalogue: &catalogue, config: &config() }.admit_one(submission)
}

fn code(code: &str) -> Submission {
    Submission { code: Some(code.to_owned()), ..Submission::default() }
}

/// The paths that are wrong.
fn wrong_paths(submission: Submission) -> Vec<String> {
    let error = admit(submission).expect_err("wrong");
    assert_eq!(error.code, ErrorCode::InvalidFields);
    error.errors.into_iter().map(|error| error.path).collect()
}

#[test]
fn what_is_left_open_is_filled_in() {
    let admitted = admit(code("pass")).expect("sound");
    let document = admitted.document;
    assert_eq!((document.environment.as_str(), document.priority), ("minimal", PRIORITY_DEFAULT));
    assert_eq!(document.limits, limits_to_wire(&Limits::DEFAULT, &[]));
    assert_eq!(document.grace_ms, 5000, "the default risk level is high");
    let low = Submission { risk_level: api::RiskLevel::Low, ..code("") };
    assert_eq!(admit(low).expect("sound").document.grace_ms, 30_000);
    let named = Submission { grace_ms: Some(0), environment: Some("ml".into()), ..code("") };
    let document = admit(named).expect("sound").document;
    assert_eq!((document.grace_ms, document.environment.as_str()), (0, "ml"));
}

#[test]
fn every_wrong_field_is_named_at_once() {
    let submission = Submission {
        files: vec![
            InputFile { path: "../up".into(), content: Some(String::new()), ..InputFile::default() },
            InputFile { path: "a".into(), ..InputFile::default() },
            InputFile { path: "b".into(), content_base64: Some("?".into()), ..InputFile::default() },
        ],
        stdin: Some("x".into()),
        stdin_base64: Some("eA==".into()),
        environment: Some("moon".into()),
        priority: Some(10),
        grace_ms: Some(60_001),
        env: [("A=B".to_owned(), String::new())].into(),
        labels: [("a".to_owned(), "v".repeat(257))].into(),
        args: vec!["nul\0".into()],
        ..Submission::default()
    };
    let mut paths = wrong_paths(submission);
    paths.sort();
    let mut expected = [
        "environment",
        "files[1].content",
        "files[2].content_base64",
        "stdin_base64",
        "files[0].path",
        "args[0]",
        "env.A=B",
        "labels.a",
        "priority",
        "grace_ms",
    ];
    expected.sort_unstable();
    assert_eq!(paths, expected);
}

#[test]
fn an_unknown_environment_is_answered_with_those_that_exist() {
    let error = admit(Submission { environment: Some("moon".into()), ..code("") }).expect_err("unknown");
    assert_eq!(error.errors[0].message, "`moon` is not known; there are: minimal, ml");
    assert_eq!(error.detail, "environment: `moon` is not known; there are: minimal, ml");
    let error = admit(Submission { environment: Some("minimla".into()), ..code("") }).expect_err("unknown");
    assert!(error.detail.contains("did you mean `minimal`? there are: minimal, ml"), "{}", error.detail);
    // What it would run is not known either: nothing is said of that.
    let error = admit(Submission { environment: Some("moon".into()), ..Submission::default() });
    let error = error.expect_err("unknown");
    assert_eq!(error.errors.len(), 1, "{:?}", error.errors);
    let long = Submission { environment: Some("é".repeat(100_000)), ..code("") };
    let error = admit(long).expect_err("no name");
    assert!(error.detail.len() < 300 && error.detail.contains("at most 63 bytes"), "{}", error.detail);
}

/// What an answer says, of the environments given.
fn detail(environments: Vec<api::Environment>, submission: Submission) -> String {
    let catalogue = catalogue(capacity(), environments);
    Admission { catalogue: &catalogue, config: &config() }.admit_one(submission).expect_err("wrong").detail
}

#[test]
fn answers_about_environments_say_what_would_do() {
    let optional = || vec![api::Environment { default: false, ..environment("ml") }];
    assert_eq!(
        detail(optional(), code("")),
        "environment: is needed, since none is the default here: name one; there are: ml"
    );
    let many: Vec<_> = (0..40).map(|n| environment(&format!("e{n:02}"))).collect();
    let said = detail(many, Submission { environment: Some("moon".into()), ..code("") });
    assert!(said.contains("e31 and 8 more, which GET /v1/environments lists"), "{said}");
    assert!(!said.contains("e32"), "{said}");

    let bare = || {
        let image = api::ForeignImage {
            reference: "tools.tar".into(),
            source_digest: "sha256:1".into(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            env: Vec::new(),
            workdir: None,
            user: None,
            has_python: false,
        };
        vec![api::Environment { image: Some(image), ..environment("minimal") }]
    };
    let said = detail(bare(), code("pass"));
    assert!(said.starts_with("code: ") && said.contains("has no python3"), "{said}");
    assert!(said.contains("say with `command`"), "{said}");
    let said = detail(bare(), Submission::default());
    assert!(
        said.starts_with("code: nothing to run") && said.contains("names nothing to run by itself"),
        "{said}"
    );
    let build = Some(api::Build { command: None, ..api::Build::default() });
    let said = detail(vec![environment("minimal")], Submission { build, ..code("") });
    assert!(said.starts_with("build.command: ") && said.contains("leave `build` out"), "{said}");
}

#[test]
fn an_answer_about_a_limit_says_between_which_bounds_it_is_right() {
    let of = |json: serde_json::Value| {
        let limits = serde_json::from_value(json).expect("known names");
        detail(vec![environment("minimal")], Submission { limits, ..code("") })
    };
    let most = Limits::MAXIMUM.wall_ms;
    assert_eq!(
        of(serde_json::json!({"wall_ms": most + 1})),
        format!("limits.wall_ms: is {}; environment `minimal` allows at most {most} here", most + 1)
    );
    assert_eq!(of(serde_json::json!({"wall_ms": 9})), "limits.wall_ms: is 9; the least that works is 10");
    let said = of(serde_json::json!({"disk_bytes": 16 << 20, "memory_bytes": 8 << 20}));
    assert!(
        said.contains("`limits.memory_bytes` (8388608)") && said.contains("less disk or more memory"),
        "{said}"
    );
}

#[test]
fn each_limit_of_a_build_has_the_environments_maximum_too() {
    let maximum_limits =
        limits_to_wire(&Limits { memory_bytes: 1 << 30, wall_ms: 7000, ..Limits::MAXIMUM }, &[]);
    let strict = || vec![api::Environment { maximum_limits, ..environment("minimal") }];
    let maxima = limits_from_wire(&maximum_limits).expect("all");
    for limit in Limit::ALL.into_iter().filter(|limit| !matches!(limit, Limit::DiskBytes | Limit::DiskInodes))
    {
        let with = |value: u64| {
            let limits = serde_json::from_value(serde_json::json!({ limit.as_str(): value })).expect("known");
            let build = Some(api::Build { command: Some(vec!["make".into()]), limits });
            Submission { build, ..code("") }
        };
        let most = maxima.get(limit);
        let catalogue = catalogue(capacity(), strict());
        let config = config();
        let admitted = Admission { catalogue: &catalogue, config: &config }.admit_one(with(most));
        let build = admitted.expect("at the maximum").document.build.expect("a build");
        assert_eq!(limits_from_wire(&build).expect("all").get(limit), most);
        let said = detail(strict(), with(most + 1));
        assert!(said.starts_with(&format!("build.limits.{}: is ", limit.as_str())), "{said}");
        assert!(said.contains(&format!("at most {most}")), "{said}");
    }
    // And no place has to give more than the largest has, to either of the two.
    let small = Capacity { memory_bytes_max: 600 << 20, ..capacity() };
    let memory = |bytes: u64| {
        let limits = serde_json::from_value(serde_json::json!({ "memory_bytes": bytes })).expect("known");
        let build = Some(api::Build { command: Some(vec!["make".into()]), limits });
        let catalogue = catalogue(small.clone(), vec![environment("minimal")]);
        Admission { catalogue: &catalogue, config: &config() }.admit_one(Submission { build, ..code("") })
    };
    memory(600 << 20).expect("it fits");
    let error = memory((600 << 20) + 1).expect_err("it does not");
    assert_eq!(error.code, ErrorCode::Refused);
    assert!(error.detail.starts_with("build.limits.memory_bytes is 629145601"), "{}", error.detail);
}

#[test]
fn each_limit_is_taken_at_its_maximum_and_refused_past_it() {
    for limit in Limit::ALL {
        let with = |value: u64| {
            let mut json = serde_json::json!({ limit.as_str(): value });
            if limit == Limit::DiskBytes {
                json["memory_bytes"] = Limits::MAXIMUM.memory_bytes.into();
            }
            Submission { limits: serde_json::from_value(json).expect("known names"), ..code("") }
        };
        admit(with(Limits::MAXIMUM.get(limit))).expect("the maximum is allowed");
        let paths = wrong_paths(with(Limits::MAXIMUM.get(limit) + 1));
        assert!(paths.contains(&format!("limits.{}", limit.as_str())), "{paths:?}");
    }
}

#[test]
fn counts_are_taken_at_their_edge_and_refused_past_it() {
    let bounds = config().limits.submission;
    let file = |i| InputFile { path: format!("f{i}"), content: Some(String::new()), ..InputFile::default() };
    let files = |n: usize| Submission { files: (0..n).map(file).collect(), ..code("") };
    admit(files(bounds.files_max)).expect("the most files");
    assert_eq!(wrong_paths(files(bounds.files_max + 1)), ["files"]);

    let args = |n: usize| Submission { args: vec![String::new(); n], ..code("") };
    admit(args(bounds.arguments_max)).expect("the most arguments");
    assert_eq!(wrong_paths(args(bounds.arguments_max + 1)), ["args"]);

    let pairs = |n: usize| (0..n).map(|i| (format!("K{i}"), String::new())).collect::<BTreeMap<_, _>>();
    admit(Submission { env: pairs(bounds.arguments_max), ..code("") }).expect("the most variables");
    assert_eq!(wrong_paths(Submission { env: pairs(bounds.arguments_max + 1), ..code("") }), ["env"]);
    admit(Submission { labels: pairs(bounds.labels_max), ..code("") }).expect("the most labels");
    assert_eq!(wrong_paths(Submission { labels: pairs(bounds.labels_max + 1), ..code("") }), ["labels"]);
}

#[test]
fn lengths_are_taken_at_their_edge_and_refused_past_it() {
    let bounds = config().limits.submission;
    let arg = |n: usize| Submission { args: vec!["a".repeat(n)], ..code("") };
    admit(arg(bounds.arg_bytes_max)).expect("the longest argument");
    assert_eq!(wrong_paths(arg(bounds.arg_bytes_max + 1)), ["args[0]"]);
    let eight = |last: usize| {
        let mut args = vec!["a".repeat(bounds.arg_bytes_max); 7];
        args.push("a".repeat(last));
        Submission { args, ..code("") }
    };
    admit(eight(bounds.arg_bytes_max)).expect("together the most");
    let mut past = eight(bounds.arg_bytes_max);
    past.args.push(String::new());
    assert_eq!(wrong_paths(past), ["args"]);

    let label = |name: usize, value: usize| Submission {
        labels: [("n".repeat(name), "v".repeat(value))].into(),
        ..code("")
    };
    admit(label(bounds.label_bytes_max, bounds.label_bytes_max)).expect("the longest label");
    assert_eq!(wrong_paths(label(bounds.label_bytes_max + 1, 0)).len(), 1);
    assert_eq!(wrong_paths(label(1, bounds.label_bytes_max + 1)), ["labels.n"]);
    assert_eq!(wrong_paths(label(0, 0)), ["labels."]);
    admit(Submission { grace_ms: Some(bounds.grace_ms_max), ..code("") }).expect("the longest grace");
}

#[test]
fn inputs_that_cannot_fit_are_refused_before_they_are_tried() {
    let limits = |json: serde_json::Value| serde_json::from_value(json).expect("known names");
    let roomy =
        Submission { limits: limits(serde_json::json!({"disk_bytes": 4096})), ..code(&"#".repeat(4096)) };
    admit(roomy).expect("exactly fits");
    let full =
        Submission { limits: limits(serde_json::json!({"disk_bytes": 4096})), ..code(&"#".repeat(4097)) };
    assert_eq!(wrong_paths(full), ["files"]);
    let large =
        Submission { limits: limits(serde_json::json!({"file_bytes": 4096})), ..code(&"#".repeat(4097)) };
    assert_eq!(wrong_paths(large), ["files"]);
    let deep = InputFile { path: "a/b/c/d/e".into(), content: Some(String::new()), ..InputFile::default() };
    let inodes = |n: usize| {
        let files = (0..n).map(|i| InputFile { path: format!("f{i}"), ..deep.clone() }).chain([deep.clone()]);
        Submission {
            files: files.collect(),
            limits: limits(serde_json::json!({"disk_inodes": 16})),
            ..code("")
        }
    };
    admit(inodes(10)).expect("ten files, one beneath four directories, and the code");
    assert_eq!(wrong_paths(inodes(11)), ["files"]);
}

#[test]
fn what_can_never_run_is_told_from_what_cannot_run_now() {
    let outcome = |capacity: Capacity, environment: api::Environment| {
        let catalogue = catalogue(capacity, vec![environment]);
        let error =
            Admission { catalogue: &catalogue, config: &config() }.admit_one(code("")).expect_err("refused");
        (error.code, error.retry_after.is_some())
    };
    let never = (ErrorCode::Refused, false);
    let not_now = (ErrorCode::RefusedForNow, true);
    let minimal = || environment("minimal");
    assert_eq!(outcome(Capacity { memory_bytes_max: 1, ..capacity() }, minimal()), never);
    assert_eq!(outcome(capacity(), api::Environment { allowed_classes: vec![], ..minimal() }), never);
    assert_eq!(outcome(Capacity { places: 0, ..capacity() }, minimal()), not_now);
    assert_eq!(outcome(Capacity { proven: vec![], ..capacity() }, minimal()), never);
    let unbuilt =
        api::Environment { state: EnvironmentState::Failed, error: Some("no Python".into()), ..minimal() };
    assert_eq!(outcome(capacity(), unbuilt.clone()), not_now);
    assert_eq!(outcome(capacity(), api::Environment { error_lasts: true, ..unbuilt }), never);
    assert_eq!(outcome(capacity(), api::Environment { isolation: "gvisor".into(), ..minimal() }), never);
    assert_eq!(
        outcome(capacity(), api::Environment { allowed_classes: vec!["gpu".into()], ..minimal() }),
        never
    );
}

#[test]
fn what_is_not_built_is_taken_or_refused_as_configured() {
    let unbuilt = api::Environment { state: EnvironmentState::NotBuilt, ..environment("minimal") };
    let catalogue = catalogue(capacity(), vec![unbuilt]);
    let on_demand = Admission { catalogue: &catalogue, config: &config() };
    on_demand.admit_one(code("")).expect("it is built when it is needed");
    let never = ApiConfig { builds: Builds::Never, ..config() };
    let error = Admission { catalogue: &catalogue, config: &never }.admit_one(code("")).expect_err("refused");
    assert_eq!(error.code, ErrorCode::RefusedForNow);
    assert!(error.detail.contains("fumehood env build minimal"), "{}", error.detail);
}

#[test]
fn a_batch_names_every_wrong_field_of_every_evaluation_up_to_a_bound() {
    let catalogue = catalogue(capacity(), vec![environment("minimal")]);
    let config = config();
    let admission = Admission { catalogue: &catalogue, config: &config };
    let wrong = || Submission { priority: Some(10), grace_ms: Some(u64::MAX), ..code("") };
    let error =
        admission.admit_all(vec![code(""), wrong(), Submission::default()]).expect_err("two are wrong");
    let paths: Vec<&str> = error.errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["evaluations[1].priority", "evaluations[1].grace_ms", "evaluations[2].code"]);
    let many = admission.admit_all((0..1000).map(|_| wrong()).collect()).expect_err("all are wrong");
    assert_eq!(many.errors.len(), config.limits.submission.errors_max);
    assert!(many.detail.ends_with("and 1999 more"), "{}", many.detail);
    assert_eq!(admission.admit_all((0..10).map(|_| code("")).collect()).expect("sound").len(), 10);
}
