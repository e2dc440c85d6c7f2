//! Reads a declaration and collects everything that is wrong with it.

mod code;
mod packages;

use std::ops::Range;

use hood_core::limits::{Limit, LimitError, Limits, LimitsRequest};
use hood_core::plan::{ExecutorClass, Isolation, SystemCalls};
use toml::de::{DeTable, DeValue};

use super::{
    Base, DECLARATION_BYTES_MAX, DESCRIPTION_BYTES_MAX, Declaration, NAME_BYTES_MAX, Problem, is_name,
};

const KEYS: [&str; 13] = [
    "name",
    "description",
    "security",
    "base",
    "isolation",
    "system_calls",
    "interpreter",
    "packages",
    "links",
    "code",
    "allowed_classes",
    "default_limits",
    "maximum_limits",
];

/// Collects problems instead of stopping at the first. A method answers `None` after it has written
/// one down.
pub(super) struct Reader<'a> {
    pub(super) text: &'a str,
    pub(super) problems: Vec<Problem>,
}

/// A table, with where it stands and what its keys are called in errors.
struct Table<'a, 'i> {
    entries: &'a DeTable<'i>,
    start: usize,
    prefix: &'static str,
}

impl<'a, 'i> Table<'a, 'i> {
    fn get(&self, key: &str) -> Option<(Range<usize>, &'a DeValue<'i>)> {
        let (_, value) = self.entries.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((value.span(), value.get_ref()))
    }
}

impl Reader<'_> {
    fn problem(&mut self, at: usize, key: &str, problem: impl Into<String>) {
        let before = self.text.as_bytes().get(..at).unwrap_or(self.text.as_bytes());
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        self.problems.push(Problem { line, key: key.to_owned(), problem: problem.into() });
    }

    pub(super) fn declaration(&mut self, file: &str) -> Option<Declaration> {
        if self.text.len() > DECLARATION_BYTES_MAX {
            self.problem(0, "", format!("is longer than {DECLARATION_BYTES_MAX} bytes"));
            return None;
        }
        let parsed = DeTable::parse(self.text)
            .map_err(|error| self.problem(error.span().map_or(0, |span| span.start), "", error.message()))
            .ok()?;
        let table = Table { entries: parsed.get_ref(), start: 0, prefix: "" };
        self.known_keys(&table, &KEYS);
        // Each is asked before any is missed, so that one reading names every problem.
        let name = self.name(&table, file);
        let description = self.line(&table, "description");
        let security = table.get("security").and_then(|_| self.line(&table, "security"));
        let base = self.base(&table);
        let isolation = self.isolation(&table);
        let system_calls = self.system_calls(&table);
        let interpreter = self.interpreter(&table);
        let packages = self.packages(&table, base);
        let code = self.code(&table);
        let classes = self.classes(&table);
        let limits = self.limits(&table);
        let (default_limits, maximum_limits) = limits?;
        Some(Declaration {
            name: name?,
            description: description?,
            security,
            base: base?,
            isolation,
            system_calls,
            interpreter: interpreter?,
            packages,
            code: Some(code),
            lock: None,
            default_limits,
            maximum_limits,
            allowed_classes: classes?,
        })
    }

    fn known_keys(&mut self, table: &Table<'_, '_>, known: &[&str]) {
        for (name, _) in table.entries {
            if !known.contains(&name.get_ref().as_ref()) {
                let key = format!("{}{}", table.prefix, name.get_ref());
                self.problem(name.span().start, &key, format!("unknown key; known are {}", known.join(", ")));
            }
        }
    }

    fn string<'t>(&mut self, table: &'t Table<'_, '_>, key: &str) -> Option<(usize, &'t str)> {
        let Some((span, value)) = table.get(key) else {
            self.problem(table.start, key, "is missing");
            return None;
        };
        let Some(text) = value.as_str() else {
            self.problem(span.start, key, format!("must be a string, and is {}", article(value)));
            return None;
        };
        Some((span.start, text))
    }

    fn name(&mut self, table: &Table<'_, '_>, file: &str) -> Option<String> {
        let (at, name) = self.string(table, "name")?;
        if !is_name(name) {
            let rule =
                format!("must be made of a-z, 0-9 and -, begin without -, and have at most {NAME_BYTES_MAX}");
            self.problem(at, "name", rule);
            return None;
        }
        let stem = file.rsplit('/').next().and_then(|last| last.strip_suffix(".toml"));
        if stem != Some(name) {
            self.problem(at, "name", format!("the file of environment `{name}` is called {name}.toml"));
            return None;
        }
        Some(name.to_owned())
    }

    fn line(&mut self, table: &Table<'_, '_>, key: &str) -> Option<String> {
        let (at, text) = self.string(table, key)?;
        if text.is_empty() || text.len() > DESCRIPTION_BYTES_MAX || text.chars().any(char::is_control) {
            let rule = format!("must be one line of 1 to {DESCRIPTION_BYTES_MAX} bytes");
            self.problem(at, key, rule);
            return None;
        }
        Some(text.to_owned())
    }

    fn isolation(&mut self, table: &Table<'_, '_>) -> Isolation {
        const KEY: &str = "isolation";
        if table.get(KEY).is_none() {
            return Isolation::default();
        }
        let Some((at, text)) = self.string(table, KEY) else { return Isolation::default() };
        Isolation::parse(text).unwrap_or_else(|| {
            let known = Isolation::ALL.map(Isolation::as_str).join(", ");
            self.problem(at, KEY, format!("`{text}` is no isolation; known are {known}"));
            Isolation::default()
        })
    }

    fn system_calls(&mut self, table: &Table<'_, '_>) -> SystemCalls {
        const KEY: &str = "system_calls";
        if table.get(KEY).is_none() {
            return SystemCalls::default();
        }
        let Some((at, text)) = self.string(table, KEY) else { return SystemCalls::default() };
        SystemCalls::parse(text).unwrap_or_else(|| {
            let known = SystemCalls::ALL.map(SystemCalls::as_str).join(", ");
            self.problem(at, KEY, format!("`{text}` is no list of system calls; known are {known}"));
            SystemCalls::default()
        })
    }

    fn base(&mut self, table: &Table<'_, '_>) -> Option<Base> {
        let (at, text) = self.string(table, "base")?;
        let known = [Base::HostPython, Base::Locked];
        let found = known.into_iter().find(|base| base.as_str() == text);
        if found.is_none() {
            let known = known.map(Base::as_str).join(", ");
            self.problem(at, "base", format!("`{text}` is no base; known are {known}"));
        }
        found
    }

    fn interpreter(&mut self, table: &Table<'_, '_>) -> Option<String> {
        let (at, text) = self.string(table, "interpreter")?;
        let absolute = text.starts_with('/');
        if text.is_empty() || text.chars().any(char::is_control) || (text.contains('/') && !absolute) {
            self.problem(at, "interpreter", "must be a name to look for on PATH, or an absolute path");
            return None;
        }
        Some(text.to_owned())
    }

    fn classes(&mut self, table: &Table<'_, '_>) -> Option<Vec<ExecutorClass>> {
        const KEY: &str = "allowed_classes";
        let Some((span, value)) = table.get(KEY) else {
            self.problem(table.start, KEY, "is missing");
            return None;
        };
        let Some(array) = value.as_array() else {
            self.problem(span.start, KEY, format!("must be an array of strings, and is {}", article(value)));
            return None;
        };
        let mut classes = Vec::new();
        for item in array.iter() {
            let class = item.get_ref().as_str().and_then(ExecutorClass::parse);
            match class {
                Some(class) if classes.contains(&class) => {
                    self.problem(item.span().start, KEY, format!("`{}` is there twice", class.as_str()));
                }
                Some(class) => classes.push(class),
                None => {
                    let known = ExecutorClass::ALL.map(ExecutorClass::as_str).join(", ");
                    self.problem(item.span().start, KEY, format!("is no class; known are {known}"));
                }
            }
        }
        if array.is_empty() {
            self.problem(span.start, KEY, "is empty: no evaluation could run");
        }
        Some(classes)
    }

    fn limits(&mut self, table: &Table<'_, '_>) -> Option<(Limits, Limits)> {
        let declared_maxima = self.limit_table(table, "maximum_limits", "maximum_limits.");
        let declared_defaults = self.limit_table(table, "default_limits", "default_limits.");
        let mut maximum = Limits::MAXIMUM;
        for limit in Limit::ALL {
            let Some((at, value)) = declared_maxima[limit as usize] else { continue };
            if value < limit.minimum() {
                let key = format!("maximum_limits.{}", limit.as_str());
                self.problem(at, &key, format!("{value} is below the least that works, {}", limit.minimum()));
            }
            maximum.set(limit, value);
        }
        // A lowered maximum lowers a default that nobody wrote down; one that was is held against it.
        let mut ours = Limits::DEFAULT;
        let mut request = LimitsRequest::default();
        for limit in Limit::ALL {
            ours.set(limit, ours.get(limit).min(maximum.get(limit)));
            request = request.with(limit, declared_defaults[limit as usize].map(|(_, value)| value));
        }
        let resolved = request.resolve(&ours, &maximum);
        for error in resolved.as_ref().err().into_iter().flatten() {
            let limit = error.limit();
            let at = declared_defaults[limit as usize].map_or(table.start, |(at, _)| at);
            self.problem(at, &format!("default_limits.{}", limit.as_str()), limit_problem(error));
        }
        Some((resolved.ok()?, maximum))
    }

    fn limit_table(
        &mut self,
        table: &Table<'_, '_>,
        key: &str,
        prefix: &'static str,
    ) -> [Option<(usize, u64)>; Limit::ALL.len()] {
        let mut found = [None; Limit::ALL.len()];
        let Some((span, value)) = table.get(key) else { return found };
        let Some(entries) = value.as_table() else {
            self.problem(span.start, key, format!("must be a table, and is {}", article(value)));
            return found;
        };
        let table = Table { entries, start: span.start, prefix };
        self.known_keys(&table, &Limit::ALL.map(Limit::as_str));
        for limit in Limit::ALL {
            let Some((span, value)) = table.get(limit.as_str()) else { continue };
            let number = value.as_integer().and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok());
            match number {
                Some(number) => found[limit as usize] = Some((span.start, number)),
                None => {
                    let key = format!("{prefix}{}", limit.as_str());
                    self.problem(span.start, &key, "must be an integer from 0 on");
                }
            }
        }
        found
    }
}

/// Without the limit's name, which the key says already.
fn limit_problem(error: &LimitError) -> String {
    match error {
        LimitError::AboveMaximum { asked, maximum, .. } => format!("{asked} is above the maximum, {maximum}"),
        LimitError::BelowMinimum { asked, minimum, .. } => {
            format!("{asked} is below the least that works, {minimum}")
        }
        LimitError::DiskAboveMemory { disk, memory } => {
            format!("{disk} is above memory_bytes, {memory}: what is written counts as memory")
        }
    }
}

fn article(value: &DeValue<'_>) -> String {
    let name = value.type_str();
    let vowel = name.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {name}", if vowel { "an" } else { "a" })
}
