//! What an evaluation may use. A limit is a promise in both directions: code gets that much, and
//! never more. A request above the maximum is refused by name, never quietly lowered.

/// One of the limits, to name it in errors, evidence and tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    WallMs,
    CpuMs,
    MemoryBytes,
    Processes,
    FileBytes,
    DiskBytes,
    DiskInodes,
    OutputBytes,
    OpenFiles,
}

impl Limit {
    pub const ALL: [Self; 9] = [
        Self::WallMs,
        Self::CpuMs,
        Self::MemoryBytes,
        Self::Processes,
        Self::FileBytes,
        Self::DiskBytes,
        Self::DiskInodes,
        Self::OutputBytes,
        Self::OpenFiles,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WallMs => "wall_ms",
            Self::CpuMs => "cpu_ms",
            Self::MemoryBytes => "memory_bytes",
            Self::Processes => "processes",
            Self::FileBytes => "file_bytes",
            Self::DiskBytes => "disk_bytes",
            Self::DiskInodes => "disk_inodes",
            Self::OutputBytes => "output_bytes",
            Self::OpenFiles => "open_files",
        }
    }

    /// The least that can work at all: below it the interpreter or the agent would fail, and the
    /// failure would look like the program's.
    pub const fn minimum(self) -> u64 {
        match self {
            Self::WallMs | Self::CpuMs => 10,
            Self::MemoryBytes => 8 * MIB,
            Self::Processes => 1,
            Self::FileBytes | Self::DiskBytes => 4096,
            Self::DiskInodes => 16,
            Self::OutputBytes => 0,
            Self::OpenFiles => 8,
        }
    }
}

const MIB: u64 = 1024 * 1024;

/// A full set. `output_bytes` is for each of stdout and stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub wall_ms: u64,
    pub cpu_ms: u64,
    pub memory_bytes: u64,
    pub processes: u64,
    pub file_bytes: u64,
    pub disk_bytes: u64,
    pub disk_inodes: u64,
    pub output_bytes: u64,
    pub open_files: u64,
}

impl Limits {
    /// What a request gets that names nothing.
    pub const DEFAULT: Self = Self {
        wall_ms: 30_000,
        cpu_ms: 30_000,
        memory_bytes: 512 * MIB,
        processes: 64,
        file_bytes: 64 * MIB,
        disk_bytes: 128 * MIB,
        disk_inodes: 16_384,
        output_bytes: 4 * MIB,
        open_files: 256,
    };

    /// What an operator allows who changed nothing.
    pub const MAXIMUM: Self = Self {
        wall_ms: 3_600_000,
        cpu_ms: 4 * 3_600_000,
        memory_bytes: 4096 * MIB,
        processes: 1024,
        file_bytes: 4096 * MIB,
        disk_bytes: 4096 * MIB,
        disk_inodes: 1_000_000,
        output_bytes: 64 * MIB,
        open_files: 4096,
    };

    pub const fn get(&self, limit: Limit) -> u64 {
        match limit {
            Limit::WallMs => self.wall_ms,
            Limit::CpuMs => self.cpu_ms,
            Limit::MemoryBytes => self.memory_bytes,
            Limit::Processes => self.processes,
            Limit::FileBytes => self.file_bytes,
            Limit::DiskBytes => self.disk_bytes,
            Limit::DiskInodes => self.disk_inodes,
            Limit::OutputBytes => self.output_bytes,
            Limit::OpenFiles => self.open_files,
        }
    }

    pub const fn set(&mut self, limit: Limit, value: u64) {
        *match limit {
            Limit::WallMs => &mut self.wall_ms,
            Limit::CpuMs => &mut self.cpu_ms,
            Limit::MemoryBytes => &mut self.memory_bytes,
            Limit::Processes => &mut self.processes,
            Limit::FileBytes => &mut self.file_bytes,
            Limit::DiskBytes => &mut self.disk_bytes,
            Limit::DiskInodes => &mut self.disk_inodes,
            Limit::OutputBytes => &mut self.output_bytes,
            Limit::OpenFiles => &mut self.open_files,
        } = value;
    }
}

/// What somebody asked for; `None` where they left it to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsRequest {
    values: [Option<u64>; Limit::ALL.len()],
}

impl LimitsRequest {
    #[must_use]
    pub const fn with(mut self, limit: Limit, value: Option<u64>) -> Self {
        self.values[limit as usize] = value;
        self
    }

    pub const fn get(&self, limit: Limit) -> Option<u64> {
        self.values[limit as usize]
    }

    /// Fills the gaps from `defaults` and holds the whole against `maxima`.
    ///
    /// Two defaults follow what was asked: unnamed CPU time is never less than the wall time asked
    /// for, and unnamed disk space never more than the memory (what is written counts as memory).
    pub fn resolve(&self, defaults: &Limits, maxima: &Limits) -> Result<Limits, Vec<LimitError>> {
        let mut limits = *defaults;
        let mut errors = Vec::new();
        for limit in Limit::ALL {
            let Some(asked) = self.get(limit) else { continue };
            limits.set(limit, asked);
            if asked > maxima.get(limit) {
                errors.push(LimitError::AboveMaximum { limit, asked, maximum: maxima.get(limit) });
            } else if asked < limit.minimum() {
                errors.push(LimitError::BelowMinimum { limit, asked, minimum: limit.minimum() });
            }
        }
        if self.get(Limit::CpuMs).is_none() {
            limits.cpu_ms = limits.cpu_ms.max(limits.wall_ms).min(maxima.cpu_ms);
        }
        match self.get(Limit::DiskBytes) {
            None => limits.disk_bytes = limits.disk_bytes.min(limits.memory_bytes),
            Some(disk) if disk > limits.memory_bytes => {
                errors.push(LimitError::DiskAboveMemory { disk, memory: limits.memory_bytes });
            }
            Some(_) => {}
        }
        if self.get(Limit::FileBytes).is_none() {
            limits.file_bytes = limits.file_bytes.min(limits.disk_bytes);
        }
        if errors.is_empty() { Ok(limits) } else { Err(errors) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("{} is {asked}, above the maximum of {maximum}", limit.as_str())]
    AboveMaximum { limit: Limit, asked: u64, maximum: u64 },
    #[error("{} is {asked}, below the minimum of {minimum}", limit.as_str())]
    BelowMinimum { limit: Limit, asked: u64, minimum: u64 },
    #[error("disk_bytes is {disk}, above memory_bytes ({memory}): what is written counts as memory")]
    DiskAboveMemory { disk: u64, memory: u64 },
}

impl LimitError {
    pub const fn limit(&self) -> Limit {
        match self {
            Self::AboveMaximum { limit, .. } | Self::BelowMinimum { limit, .. } => *limit,
            Self::DiskAboveMemory { .. } => Limit::DiskBytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(request: LimitsRequest) -> Result<Limits, Vec<LimitError>> {
        request.resolve(&Limits::DEFAULT, &Limits::MAXIMUM)
    }

    #[test]
    fn each_limit_is_refused_just_past_each_edge_and_taken_at_it() {
        for limit in Limit::ALL {
            let roomy = LimitsRequest::default().with(Limit::MemoryBytes, Some(Limits::MAXIMUM.memory_bytes));
            let maximum = Limits::MAXIMUM.get(limit);
            let at = resolve(roomy.with(limit, Some(maximum))).expect("the maximum is allowed");
            assert_eq!(at.get(limit), maximum);
            let past = resolve(roomy.with(limit, Some(maximum + 1))).expect_err("past it is not");
            assert!(past.contains(&LimitError::AboveMaximum { limit, asked: maximum + 1, maximum }));
            if let Some(below) = limit.minimum().checked_sub(1) {
                assert!(resolve(roomy.with(limit, Some(limit.minimum()))).is_ok(), "{limit:?}");
                let errors = resolve(LimitsRequest::default().with(limit, Some(below))).expect_err("too low");
                assert_eq!(errors[0].limit(), limit);
            }
        }
    }

    #[test]
    fn all_wrong_limits_are_named_at_once() {
        let request = LimitsRequest::default()
            .with(Limit::WallMs, Some(u64::MAX))
            .with(Limit::Processes, Some(0))
            .with(Limit::OpenFiles, Some(u64::MAX));
        assert_eq!(resolve(request).expect_err("three wrong").len(), 3);
    }

    #[test]
    fn disk_follows_memory_unless_it_was_named() {
        let small = LimitsRequest::default().with(Limit::MemoryBytes, Some(64 * MIB));
        let limits = resolve(small).expect("fits");
        assert_eq!((limits.disk_bytes, limits.file_bytes), (64 * MIB, 64 * MIB));
        let named = small.with(Limit::DiskBytes, Some(64 * MIB + 1));
        assert!(matches!(resolve(named).expect_err("too much")[0], LimitError::DiskAboveMemory { .. }));
    }

    #[test]
    fn cpu_time_follows_wall_time_unless_it_was_named() {
        let long = LimitsRequest::default().with(Limit::WallMs, Some(600_000));
        assert_eq!(resolve(long).expect("fits").cpu_ms, 600_000);
        assert_eq!(resolve(long.with(Limit::CpuMs, Some(1000))).expect("fits").cpu_ms, 1000);
    }
}
