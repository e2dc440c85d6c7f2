//! Which evaluations a list shows.

use hood_wire::api::State;

/// Newest first. Labels are joined by AND.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    pub states: Vec<State>,
    /// `name=value` each.
    pub labels: Vec<(String, String)>,
    /// RFC 3339; evaluations accepted at that moment or later.
    pub since: Option<String>,
    pub batch: Option<String>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    pub limit: Option<u32>,
}

impl ListQuery {
    pub(crate) fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = Vec::new();
        pairs.extend(self.states.iter().map(|state| ("state", state_name(*state).to_owned())));
        pairs.extend(self.labels.iter().map(|(name, value)| ("label", format!("{name}={value}"))));
        pairs.extend(self.since.iter().map(|since| ("since", since.clone())));
        pairs.extend(self.batch.iter().map(|batch| ("batch", batch.clone())));
        pairs.extend(self.cursor.iter().map(|cursor| ("cursor", cursor.clone())));
        pairs.extend(self.limit.iter().map(|limit| ("limit", limit.to_string())));
        pairs
    }
}

/// Which of those that infrastructure failed a list shows. Newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadQuery {
    /// `name=value` each; joined by AND.
    pub labels: Vec<(String, String)>,
    /// RFC 3339.
    pub since: Option<String>,
    pub batch: Option<String>,
    /// Also those that were requeued.
    pub all: bool,
    pub cursor: Option<String>,
    pub limit: Option<u32>,
}

impl DeadQuery {
    pub(crate) fn pairs(&self) -> Vec<(&'static str, String)> {
        let Self { labels, since, batch, all, cursor, limit } = self.clone();
        let mut pairs = ListQuery { labels, since, batch, cursor, limit, ..ListQuery::default() }.pairs();
        pairs.extend(all.then(|| ("all", "true".to_owned())));
        pairs
    }
}

const fn state_name(state: State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Provisioning => "provisioning",
        State::Running => "running",
        State::Succeeded => "succeeded",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
    }
}
