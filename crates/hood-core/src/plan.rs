//! The decision engine: which place an evaluation goes to, or why none may take it. A pure function
//! of what was asked, the environment, what the places offer and the policy; every decision carries
//! its reasons, and is recorded with them.

use std::collections::BTreeSet;

use crate::limits::{Limit, Limits};
use crate::time::Timestamp;

/// A part of the isolation that a place has proven, or has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// User, mount, pid, net, ipc, uts and cgroup namespaces of its own.
    Namespaces,
    /// A root image of our own through an overlay that nobody else shares, bounded tmpfs for the rest.
    Root,
    /// A /proc that shows the program nothing but itself, with the host's knobs masked.
    Proc,
    /// Bounds on what the kernel charges to the creator of a user namespace.
    KernelCounters,
    /// Allow-lists of system calls for agent and program.
    Seccomp,
    /// No capability for the program, no new privileges.
    Capabilities,
    /// Agent and program have different ids, and no other live place has either.
    SeparateIds,
    /// A second bar before files, whatever the mounts are.
    Landlock,
    /// Signals and abstract sockets kept in once more, beside the namespaces.
    LandlockScopes,
    /// A cgroup holds the program's memory.
    MemoryLimit,
    /// A cgroup holds the program's processes.
    ProcessLimit,
    /// A cgroup counts the CPU time of all its processes.
    CpuAccounting,
    /// A kernel of its own between the program and the host's: for environments that ask for it.
    Gvisor,
}

impl Layer {
    pub const ALL: [Self; 13] = [
        Self::Namespaces,
        Self::Root,
        Self::Proc,
        Self::KernelCounters,
        Self::Seccomp,
        Self::Capabilities,
        Self::SeparateIds,
        Self::Landlock,
        Self::LandlockScopes,
        Self::MemoryLimit,
        Self::ProcessLimit,
        Self::CpuAccounting,
        Self::Gvisor,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Root => "root",
            Self::Proc => "proc",
            Self::KernelCounters => "kernel_counters",
            Self::Seccomp => "seccomp",
            Self::Capabilities => "capabilities",
            Self::SeparateIds => "separate_ids",
            Self::Landlock => "landlock",
            Self::LandlockScopes => "landlock_scopes",
            Self::MemoryLimit => "memory_limit",
            Self::ProcessLimit => "process_limit",
            Self::CpuAccounting => "cpu_accounting",
            Self::Gvisor => "gvisor",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layer| layer.as_str() == text)
    }

    /// Layers that even `development` cannot do without: with one of them missing, code would run
    /// on the host.
    const fn indispensable(self) -> bool {
        matches!(
            self,
            Self::Namespaces
                | Self::Root
                | Self::Proc
                | Self::KernelCounters
                | Self::Seccomp
                | Self::Capabilities
        )
    }
}

/// A kind of place that an evaluation can run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlaceKind {
    /// The namespace tier, made by root.
    LocalRoot,
    /// The namespace tier, made by an ordinary user.
    LocalUser,
}

impl PlaceKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LocalRoot => "local_root",
            Self::LocalUser => "local_user",
        }
    }

    /// What stands between its programs and the host's kernel.
    pub const fn isolation(self) -> Isolation {
        match self {
            Self::LocalRoot | Self::LocalUser => Isolation::Namespace,
        }
    }

    /// The committed table: what each kind must prove under the policy `strict`, and what is said
    /// of a result that ran without it under `development`. Landlock's scopes are not in it: pid
    /// and net namespaces and separate ids hold the same, and kernels before 6.12 lack them.
    pub const fn required(self) -> &'static [Layer] {
        match self {
            Self::LocalRoot | Self::LocalUser => &[
                Layer::Namespaces,
                Layer::Root,
                Layer::Proc,
                Layer::KernelCounters,
                Layer::Seccomp,
                Layer::Capabilities,
                Layer::SeparateIds,
                Layer::Landlock,
                Layer::MemoryLimit,
                Layer::ProcessLimit,
                Layer::CpuAccounting,
            ],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExecutorClass {
    Cpu,
    Gpu,
    HighMemory,
    Network,
}

impl ExecutorClass {
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Gpu, Self::HighMemory, Self::Network];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
            Self::HighMemory => "high-memory",
            Self::Network => "network",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }
}

/// The isolation that an environment asks for, whatever the policy would do with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// What every place has: namespaces, filters and limits over the host's kernel.
    #[default]
    Namespace,
    /// A kernel of its own between the program and the host's.
    Gvisor,
}

impl Isolation {
    pub const ALL: [Self; 2] = [Self::Namespace, Self::Gvisor];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Gvisor => "gvisor",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|isolation| isolation.as_str() == text)
    }
}

/// Which system calls an environment's programs are answered, whatever else holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SystemCalls {
    /// What ordinary programs of every language use.
    #[default]
    Ordinary,
    /// What one Python process needs to compute, and to use its own files and threads.
    Least,
}

impl SystemCalls {
    pub const ALL: [Self; 2] = [Self::Ordinary, Self::Least];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::Least => "least",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|calls| calls.as_str() == text)
    }
}

/// What an evaluation asks of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    pub limits: Limits,
    /// Those of the build before it, where there is one.
    pub build: Option<Limits>,
    pub class: ExecutorClass,
}

impl Demand {
    /// The most memory that the place must be able to give at once, and the limit that asks for it: the
    /// build and the program take turns.
    fn most_memory(&self) -> (&'static str, u64) {
        let program = self.limits.memory_bytes;
        match self.build.map(|build| build.memory_bytes) {
            Some(build) if build > program => ("build.limits.memory_bytes", build),
            _ => ("limits.memory_bytes", program),
        }
    }
}

/// What is known of the environment it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentFacts {
    pub name: String,
    pub allowed_classes: Vec<ExecutorClass>,
    pub isolation: Isolation,
    pub system_calls: SystemCalls,
}

impl EnvironmentFacts {
    /// The class that its evaluations are given: the first that it allows.
    pub fn class(&self) -> ExecutorClass {
        self.allowed_classes.first().copied().unwrap_or(ExecutorClass::Cpu)
    }
}

/// What one kind of place said of itself, and when: the copy that the store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub version: u64,
    pub taken_at: Timestamp,
    pub kind: PlaceKind,
    pub classes: Vec<ExecutorClass>,
    /// Layers proven by making a real place and looking.
    pub proven: Vec<Layer>,
    /// Why each of the others is not proven, and the fix.
    pub unproven: Vec<(Layer, String)>,
    /// The largest memory that one place can be given.
    pub memory_bytes_max: u64,
    pub places: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyMode {
    /// What is not proven is refused.
    Strict,
    /// Runs with less, and says so on every result.
    Development,
}

impl PolicyMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Development => "development",
        }
    }
}

/// A layer that the place does not have, and why; on every result that ran without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    pub layer: Layer,
    pub reason: String,
}

/// What one executor offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub executor: String,
    /// Places of it that nothing runs in, as far as is known.
    pub free: u32,
    /// False while the executor does not answer.
    pub open: bool,
    /// The environments that it has, by name; `None` where it has each that is known, as one that is
    /// alone does.
    pub environments: Option<BTreeSet<String>>,
    pub capacity: Capacity,
}

impl Offer {
    pub fn has(&self, environment: &str) -> bool {
        self.environments.as_ref().is_none_or(|names| names.contains(environment))
    }
}

/// A decision to run, with everything that led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Who carries it out.
    pub executor: String,
    pub kind: PlaceKind,
    pub class: ExecutorClass,
    pub environment: String,
    pub limits: Limits,
    /// Limits that this kind of place cannot hold by itself; `null` in the result's `limits`.
    pub unenforced: Vec<Limit>,
    pub degraded: Vec<Degraded>,
    pub capacity_version: u64,
    pub capacity_taken_at: Timestamp,
    pub reasons: Vec<String>,
}

/// A decision not to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: RefusalCode,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    NoEnvironment,
    /// Its image cannot be made, and trying again would not change that.
    EnvironmentFailed,
    ClassNotAllowed,
    ClassNotOffered,
    TooLarge,
    IsolationNotProven,
    IsolationNotOffered,
    NoPlaces,
}

impl RefusalCode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoEnvironment => "no_environment",
            Self::EnvironmentFailed => "environment_failed",
            Self::ClassNotAllowed => "class_not_allowed",
            Self::ClassNotOffered => "class_not_offered",
            Self::TooLarge => "too_large",
            Self::IsolationNotProven => "isolation_not_proven",
            Self::IsolationNotOffered => "isolation_not_offered",
            Self::NoPlaces => "no_places",
        }
    }

    /// Whether waiting can help: then the answer is "not now" (503), otherwise "never" (422). A layer
    /// that a host does not prove takes its operator; a probe that failed closes the places instead.
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::NoPlaces)
    }
}

/// Chooses an executor, or says why none may take it: of those that may, the one with the most free
/// places. Where none may, the refusal is one that may pass, if there is one.
pub fn plan(
    demand: &Demand,
    environment: &EnvironmentFacts,
    offers: &[Offer],
    policy: PolicyMode,
) -> Result<Assignment, Refusal> {
    let mut refusals = Vec::new();
    let mut chosen: Option<(&Offer, Assignment)> = None;
    let mut fitting = 0;
    for offer in offers {
        match plan_on(demand, environment, offer, policy) {
            Ok(assignment) => {
                fitting += 1;
                if chosen.as_ref().is_none_or(|(best, _)| offer.free > best.free) {
                    chosen = Some((offer, assignment));
                }
            }
            Err(refusal) => refusals.push(refusal),
        }
    }
    if let Some((offer, mut assignment)) = chosen {
        let (executor, free) = (&offer.executor, offer.free);
        assignment.reasons.push(match fitting {
            1 => format!("executor `{executor}` is the only one that can take it"),
            n => format!("executor `{executor}` has the most free places ({free}) of {n} that can take it"),
        });
        return Ok(assignment);
    }
    // What keeps an executor that has the environment says more than that another has it not.
    let telling = |refusal: &Refusal| refusal.code != RefusalCode::NoEnvironment;
    let hopeful = refusals.iter().position(|refusal| refusal.code.may_pass());
    let hopeful = hopeful.or_else(|| refusals.iter().position(telling)).unwrap_or(0);
    let nobody = Refusal { code: RefusalCode::NoPlaces, reason: "no executor is known".to_owned() };
    Err(refusals.into_iter().nth(hopeful).unwrap_or(nobody))
}

fn plan_on(
    demand: &Demand,
    environment: &EnvironmentFacts,
    offer: &Offer,
    policy: PolicyMode,
) -> Result<Assignment, Refusal> {
    let capacity = &offer.capacity;
    let refuse = |code, reason| Err(Refusal { code, reason });
    let class = demand.class;
    offers_class(class, environment, offer)?;
    let lesser = lesser_isolation(environment, capacity.kind);
    if let Some(reason) = lesser.as_ref().filter(|_| policy == PolicyMode::Strict) {
        let reason = format!(
            "{reason}; policy `strict` refuses that, and `development` runs it with what there is and says so"
        );
        return refuse(RefusalCode::IsolationNotOffered, reason);
    }
    let (limit, asked) = demand.most_memory();
    if asked > capacity.memory_bytes_max {
        let largest = capacity.memory_bytes_max;
        let reason = format!("{limit} is {asked}, and the largest place has {largest}: ask for that or less");
        return refuse(RefusalCode::TooLarge, reason);
    }
    if !offer.open {
        return refuse(RefusalCode::NoPlaces, format!("executor `{}` does not answer", offer.executor));
    }
    if capacity.places == 0 {
        return refuse(RefusalCode::NoPlaces, "no place is open for work".to_owned());
    }
    let mut degraded = missing_layers(capacity);
    if let Some(missing) = degraded.iter().find(|missing| is_fatal(missing, policy)) {
        let (layer, policy) = (missing.layer.as_str(), policy.as_str());
        let reason =
            format!("policy `{policy}` needs the layer `{layer}`, which is not proven: {}", missing.reason);
        return refuse(RefusalCode::IsolationNotProven, reason);
    }
    degraded.extend(lesser.map(|reason| Degraded { layer: Layer::Gvisor, reason }));
    let unenforced = unenforced(&degraded);
    let reasons = vec![
        format!("class `{}` is allowed by environment `{}` and offered", class.as_str(), environment.name),
        format!("{limit} {asked} fits the largest place ({})", capacity.memory_bytes_max),
        match degraded.len() {
            0 => format!("every layer required of `{}` is proven", capacity.kind.as_str()),
            n => format!("{n} layers are not proven; policy `{}` runs without them", policy.as_str()),
        },
    ];
    Ok(Assignment {
        executor: offer.executor.clone(),
        kind: capacity.kind,
        class,
        environment: environment.name.clone(),
        limits: demand.limits,
        unenforced,
        degraded,
        capacity_version: capacity.version,
        capacity_taken_at: capacity.taken_at,
        reasons,
    })
}

/// Whether the executor has the environment, and places of the class that it allows.
fn offers_class(class: ExecutorClass, environment: &EnvironmentFacts, offer: &Offer) -> Result<(), Refusal> {
    let refuse = |code, reason| Err(Refusal { code, reason });
    if !environment.allowed_classes.contains(&class) {
        let reason = format!("environment `{}` does not allow class `{}`", environment.name, class.as_str());
        return refuse(RefusalCode::ClassNotAllowed, reason);
    }
    if !offer.has(&environment.name) {
        let reason =
            format!("executor `{}` does not have environment `{}`", offer.executor, environment.name);
        return refuse(RefusalCode::NoEnvironment, reason);
    }
    if !offer.capacity.classes.contains(&class) {
        let reason = match class {
            ExecutorClass::Gpu => "no GPU is given to sandboxes here",
            ExecutorClass::Cpu | ExecutorClass::HighMemory | ExecutorClass::Network => {
                "name another environment"
            }
        };
        let (class, name) = (class.as_str(), &environment.name);
        let reason = format!("no place offers class `{class}`, which environment `{name}` needs: {reason}");
        return refuse(RefusalCode::ClassNotOffered, reason);
    }
    Ok(())
}

/// Why a kind of place is less than the environment asks for; `None` where it is not.
fn lesser_isolation(environment: &EnvironmentFacts, kind: PlaceKind) -> Option<String> {
    let (wanted, offered) = (environment.isolation, kind.isolation());
    let lesser = wanted != Isolation::Namespace && wanted != offered;
    lesser.then(|| {
        format!(
            "environment `{}` asks for the isolation `{}`, and the places here have `{}`",
            environment.name,
            wanted.as_str(),
            offered.as_str()
        )
    })
}

/// The first layer without which every evaluation is refused here, if there is one.
pub fn first_fatal(capacity: &Capacity, policy: PolicyMode) -> Option<Degraded> {
    missing_layers(capacity).into_iter().find(|missing| is_fatal(missing, policy))
}

fn is_fatal(missing: &Degraded, policy: PolicyMode) -> bool {
    policy == PolicyMode::Strict || missing.layer.indispensable()
}

fn missing_layers(capacity: &Capacity) -> Vec<Degraded> {
    let why = |layer| {
        let known = capacity.unproven.iter().find(|(unproven, _)| *unproven == layer);
        known.map_or_else(|| "the place did not report it".to_owned(), |(_, reason)| reason.clone())
    };
    let required = capacity.kind.required().iter().copied();
    required
        .filter(|layer| !capacity.proven.contains(layer))
        .map(|layer| Degraded { layer, reason: why(layer) })
        .collect()
}

/// Limits that nothing but a cgroup holds for the whole group.
fn unenforced(degraded: &[Degraded]) -> Vec<Limit> {
    let lacks = |layer| degraded.iter().any(|missing| missing.layer == layer);
    let mut limits = Vec::new();
    for (layer, limit) in [
        (Layer::MemoryLimit, Limit::MemoryBytes),
        (Layer::ProcessLimit, Limit::Processes),
        (Layer::CpuAccounting, Limit::CpuMs),
    ] {
        if lacks(layer) {
            limits.push(limit);
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand() -> Demand {
        Demand { limits: Limits::DEFAULT, build: None, class: ExecutorClass::Cpu }
    }

    fn environment() -> EnvironmentFacts {
        EnvironmentFacts {
            name: "minimal".into(),
            allowed_classes: vec![ExecutorClass::Cpu],
            isolation: Isolation::Namespace,
            system_calls: SystemCalls::Ordinary,
        }
    }

    fn capacity() -> Capacity {
        Capacity {
            version: 7,
            taken_at: Timestamp::from_micros(5),
            kind: PlaceKind::LocalRoot,
            classes: vec![ExecutorClass::Cpu],
            proven: Layer::ALL.to_vec(),
            unproven: Vec::new(),
            memory_bytes_max: 1 << 30,
            places: 2,
        }
    }

    fn offer(capacity: Capacity) -> Offer {
        Offer { executor: "one".to_owned(), free: capacity.places, open: true, environments: None, capacity }
    }

    fn plan_here(
        demand: &Demand,
        environment: &EnvironmentFacts,
        capacity: &Capacity,
        policy: PolicyMode,
    ) -> Result<Assignment, Refusal> {
        plan(demand, environment, &[offer(capacity.clone())], policy)
    }

    #[test]
    fn the_executor_with_the_most_free_places_takes_it_of_those_that_can() {
        let named =
            |executor: &str, free, capacity| Offer { free, executor: executor.to_owned(), ..offer(capacity) };
        let offers = [
            named("full", 0, capacity()),
            named("free", 2, capacity()),
            named("small", 9, Capacity { memory_bytes_max: 1, ..capacity() }),
            named("bare", 9, without(Layer::Seccomp)),
            Offer { open: false, ..named("away", 9, capacity()) },
        ];
        let assignment = plan(&demand(), &environment(), &offers, PolicyMode::Strict).expect("assigned");
        assert_eq!(assignment.executor, "free");
        assert!(assignment.reasons.iter().any(|reason| reason.contains("most free places (2) of 2")));
    }

    #[test]
    fn where_none_can_take_it_the_hopeful_reason_is_given() {
        let closed = Capacity { places: 0, ..capacity() };
        let small = Capacity { memory_bytes_max: 1, ..capacity() };
        let refused = |offers: &[Offer]| {
            plan(&demand(), &environment(), offers, PolicyMode::Strict).expect_err("refused").code
        };
        assert_eq!(refused(&[offer(small.clone()), offer(closed)]), RefusalCode::NoPlaces);
        assert_eq!(refused(&[offer(small)]), RefusalCode::TooLarge);
        assert_eq!(refused(&[]), RefusalCode::NoPlaces);
    }

    #[test]
    fn one_that_lacks_the_environment_takes_nothing_for_it_however_free_it_is() {
        let with = |executor: &str, names: &[&str], free| Offer {
            executor: executor.to_owned(),
            free,
            environments: Some(names.iter().map(|name| (*name).to_owned()).collect()),
            ..offer(capacity())
        };
        let (has, lacks) = (with("has", &["data", "minimal"], 0), with("lacks", &["data"], 9));
        let decide = |offers: &[Offer]| plan(&demand(), &environment(), offers, PolicyMode::Strict);
        assert_eq!(decide(&[lacks.clone(), has.clone()]).expect("assigned").executor, "has");
        let away = Offer { open: false, ..has.clone() };
        let refusal = decide(&[lacks.clone(), away]).expect_err("nobody has it just now");
        assert!(refusal.code.may_pass() && refusal.reason.contains("`has` does not answer"), "{refusal:?}");
        let small = Offer { capacity: Capacity { memory_bytes_max: 1, ..capacity() }, ..has };
        assert_eq!(decide(&[lacks.clone(), small]).expect_err("refused").code, RefusalCode::TooLarge);
        let refusal = decide(&[lacks]).expect_err("refused");
        assert_eq!(refusal.code, RefusalCode::NoEnvironment);
        assert!(refusal.reason.contains("`lacks`") && refusal.reason.contains("`minimal`"), "{refusal:?}");
    }

    #[test]
    fn the_larger_of_build_and_program_has_to_fit() {
        let most = capacity().memory_bytes_max;
        let of = |program, build: Option<u64>| {
            let with = |memory_bytes| Limits { memory_bytes, ..Limits::DEFAULT };
            let demand = Demand { limits: with(program), build: build.map(with), ..demand() };
            plan_here(&demand, &environment(), &capacity(), PolicyMode::Strict)
        };
        for (program, build) in [(most, None), (most, Some(1)), (1, Some(most)), (most, Some(most))] {
            let assignment = of(program, build).expect("at the edge it fits");
            assert_eq!(assignment.limits.memory_bytes, program, "the program's own, whatever the build has");
        }
        let past = most + 1;
        for (program, build, named) in [
            (past, None, "limits.memory_bytes is"),
            (past, Some(1), "limits.memory_bytes is"),
            (1, Some(past), "build.limits.memory_bytes is"),
        ] {
            let refusal = of(program, build).expect_err("past it does not");
            assert_eq!(refusal.code, RefusalCode::TooLarge);
            assert!(refusal.reason.starts_with(named), "{}", refusal.reason);
        }
        // An executor whose places hold the program alone is none for both.
        let executor = |name: &str, memory_bytes_max, free| Offer {
            executor: name.to_owned(),
            free,
            ..offer(Capacity { memory_bytes_max, ..capacity() })
        };
        let offers = [executor("small", most, 9), executor("large", past, 1)];
        let build = Some(Limits { memory_bytes: past, ..Limits::DEFAULT });
        let demand = Demand { build, ..demand() };
        let assignment = plan(&demand, &environment(), &offers, PolicyMode::Strict).expect("assigned");
        assert_eq!(assignment.executor, "large");
    }

    fn without(layer: Layer) -> Capacity {
        let mut capacity = capacity();
        capacity.proven.retain(|proven| *proven != layer);
        capacity.unproven.push((layer, "the host lacks it".into()));
        capacity
    }

    #[test]
    fn a_decision_carries_its_reasons_and_the_age_of_what_it_knew() {
        let assignment =
            plan_here(&demand(), &environment(), &capacity(), PolicyMode::Strict).expect("assigned");
        assert_eq!(
            (assignment.capacity_version, assignment.capacity_taken_at),
            (7, Timestamp::from_micros(5))
        );
        assert!(assignment.reasons.len() >= 3 && assignment.degraded.is_empty());
    }

    #[test]
    fn strict_refuses_each_layer_that_is_not_proven_and_says_why() {
        for layer in PlaceKind::LocalRoot.required().iter().copied() {
            let refusal = plan_here(&demand(), &environment(), &without(layer), PolicyMode::Strict)
                .expect_err("refused");
            assert_eq!(refusal.code, RefusalCode::IsolationNotProven);
            assert!(refusal.reason.contains(layer.as_str()) && refusal.reason.contains("the host lacks it"));
        }
    }

    #[test]
    fn development_runs_without_what_it_can_spare_and_says_so() {
        for layer in PlaceKind::LocalRoot.required().iter().copied() {
            let decision = plan_here(&demand(), &environment(), &without(layer), PolicyMode::Development);
            match decision {
                Ok(assignment) => {
                    assert!(!layer.indispensable());
                    assert_eq!(assignment.degraded.len(), 1);
                }
                Err(refusal) => {
                    assert!(layer.indispensable());
                    assert_eq!(refusal.code, RefusalCode::IsolationNotProven);
                }
            }
        }
        let assignment =
            plan_here(&demand(), &environment(), &without(Layer::MemoryLimit), PolicyMode::Development);
        assert_eq!(assignment.expect("runs").unenforced, [Limit::MemoryBytes]);
    }

    #[test]
    fn a_class_that_no_place_offers_is_told_with_the_environment_that_needs_it() {
        let needs = |class| EnvironmentFacts { allowed_classes: vec![class], ..environment() };
        for (class, next) in
            [(ExecutorClass::Gpu, "no GPU is given"), (ExecutorClass::Network, "name another")]
        {
            let demand = Demand { class, ..demand() };
            let refusal =
                plan_here(&demand, &needs(class), &capacity(), PolicyMode::Strict).expect_err("refused");
            assert_eq!(refusal.code, RefusalCode::ClassNotOffered);
            let told = ["`minimal`", class.as_str(), next];
            assert!(told.iter().all(|told| refusal.reason.contains(told)), "{}", refusal.reason);
        }
    }

    #[test]
    fn isolation_that_is_not_there_is_refused_or_said() {
        let wanting = EnvironmentFacts { isolation: Isolation::Gvisor, ..environment() };
        let refusal = plan_here(&demand(), &wanting, &capacity(), PolicyMode::Strict).expect_err("refused");
        assert_eq!(refusal.code, RefusalCode::IsolationNotOffered);
        assert!(refusal.reason.contains("`gvisor`"), "{}", refusal.reason);
        let assignment = plan_here(&demand(), &wanting, &capacity(), PolicyMode::Development).expect("runs");
        let degraded: Vec<_> = assignment.degraded.iter().map(|degraded| degraded.layer).collect();
        assert_eq!((degraded, assignment.unenforced), (vec![Layer::Gvisor], vec![]));
    }

    #[test]
    fn what_can_never_run_is_told_from_what_cannot_run_now() {
        let cases = [
            (demand(), EnvironmentFacts { allowed_classes: vec![], ..environment() }, capacity(), false),
            (demand(), environment(), Capacity { classes: vec![], ..capacity() }, false),
            (demand(), EnvironmentFacts { isolation: Isolation::Gvisor, ..environment() }, capacity(), false),
            (demand(), environment(), Capacity { memory_bytes_max: 1, ..capacity() }, false),
            (demand(), environment(), Capacity { places: 0, ..capacity() }, true),
        ];
        for (demand, environment, capacity, may_pass) in cases {
            let refusal =
                plan_here(&demand, &environment, &capacity, PolicyMode::Strict).expect_err("refused");
            assert_eq!(refusal.code.may_pass(), may_pass, "{}", refusal.reason);
        }
    }
}
