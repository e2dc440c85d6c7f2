//! Pages of evaluations.

use std::time::Duration;

use hood_core::lifecycle::State;
use hood_core::{EvaluationId, Tenant, Timestamp};

use crate::db::{Builder, Connection};
use crate::error::StoreError;
use crate::model::{Dead, Filter, Page, RecordSummary};
use crate::rows::{summary, summary_columns};
use crate::writer::failed;

/// How much earlier than its evaluation was accepted an id may have been made: where it is `since`
/// that filters, older ids are not looked at.
const ID_EARLIER_MAX: Duration = Duration::from_secs(3600);

/// Newest first. Ids sort by the time they were made, so what is added later is before the first
/// page and moves nothing.
///
/// The ids of the page come first, by whichever index gives them in order: a filter must not cost a
/// walk over everything that was ever evaluated.
pub(crate) async fn list(
    db: &mut Connection<'_>,
    tenant: &Tenant,
    filter: &Filter,
    cursor: Option<EvaluationId>,
    limit: u32,
) -> Result<Page<RecordSummary>, StoreError> {
    // One more than the page tells whether there is a next one.
    let search = Search { tenant, filter, cursor, rows: i64::from(limit) + 1 };
    let mut query = Builder::new("WITH page AS MATERIALIZED (");
    search.push(&mut query);
    query.push(concat!(
        ") SELECT ",
        summary_columns!(),
        " FROM evaluations e LEFT JOIN results s ON s.tenant = e.tenant AND s.evaluation = e.id \
         JOIN page ON page.id = e.id WHERE e.tenant = "
    ));
    query.push_bind(tenant.as_str()).push(" ORDER BY e.id DESC");
    let rows = query.build().fetch_all(db).await.map_err(failed("listing evaluations"))?;
    let mut items = rows.iter().map(summary).collect::<Result<Vec<_>, _>>()?;
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next = items.last().filter(|_| more).map(|last| last.id);
    Ok(Page { items, next })
}

struct Search<'a> {
    tenant: &'a Tenant,
    filter: &'a Filter,
    cursor: Option<EvaluationId>,
    rows: i64,
}

impl Search<'_> {
    fn push(&self, query: &mut Builder) {
        let Filter { states, batch, .. } = self.filter;
        if let Some((name, value)) = self.leading_label() {
            query.push("SELECT e.id FROM labels d CROSS JOIN evaluations e WHERE d.tenant = ");
            query.push_bind(self.tenant.as_str());
            query.push(" AND d.label_key = ").push_bind(name.as_str());
            query.push(" AND d.label_value = ").push_bind(value.as_str());
            query.push(" AND e.id = d.evaluation");
            self.push_rest(query, "d.evaluation");
        } else if batch.is_none() && self.filter.dead.is_some() {
            query.push("SELECT e.id FROM evaluations e WHERE e.verdict = 'infrastructure_error'");
            self.push_rest(query, "e.id");
        } else if batch.is_none() && !states.is_empty() {
            query.push("SELECT id FROM (");
            for (i, state) in distinct(states).enumerate() {
                query.push(if i == 0 { "SELECT id FROM (" } else { " UNION ALL SELECT id FROM (" });
                query.push("SELECT e.id FROM evaluations e WHERE e.state = ").push_bind(state.as_str());
                self.push_rest(query, "e.id");
                query.push(&format!(") AS of_{i}"));
            }
            query.push(") AS of_all ORDER BY id DESC LIMIT ").push_bind(self.rows);
        } else {
            query.push("SELECT e.id FROM evaluations e WHERE 1 = 1");
            self.push_rest(query, "e.id");
        }
    }

    /// The label whose index leads the search; a batch leads where there is one, being small.
    fn leading_label(&self) -> Option<&(String, String)> {
        self.filter.labels.first().filter(|_| self.filter.batch.is_none())
    }

    /// What every way to search has in common; `id` is the column that its index is ordered by.
    fn push_rest(&self, query: &mut Builder, id: &'static str) {
        let Filter { states, labels, since, batch, dead } = self.filter;
        query.push(" AND e.tenant = ").push_bind(self.tenant.as_str());
        if let Some(cursor) = self.cursor {
            query.push(" AND ").push(id).push(" < ").push_bind(cursor.as_uuid());
        }
        if let Some(since) = since {
            query.push(" AND e.created_at >= ").push_bind(since.as_micros());
            query.push(" AND ").push(id).push(" >= ").push_bind(earliest(*since).as_uuid());
        }
        if let Some(batch) = batch {
            query.push(" AND e.batch = ").push_bind(batch.as_uuid());
        }
        if batch.is_some() || !labels.is_empty() || dead.is_some() {
            push_states(query, states);
        }
        if dead.is_some() && (batch.is_some() || !labels.is_empty()) {
            query.push(" AND e.verdict || '' = 'infrastructure_error'");
        }
        if *dead == Some(Dead::Left) {
            query.push(
                " AND NOT EXISTS (SELECT 1 FROM requeues q WHERE q.tenant = e.tenant AND q.evaluation = e.id)",
            );
        }
        for (name, value) in labels.iter().skip(usize::from(self.leading_label().is_some())) {
            query.push(" AND EXISTS (SELECT 1 FROM labels l WHERE l.tenant = e.tenant");
            query.push(" AND l.label_key = ").push_bind(name.as_str());
            query.push(" AND l.label_value = ").push_bind(value.as_str());
            query.push(" AND l.evaluation = e.id)");
        }
        query.push(" ORDER BY ").push(id).push(" DESC LIMIT ").push_bind(self.rows);
    }
}

/// Where a better index is used: the column as an expression, so that the one on states is not.
fn push_states(query: &mut Builder, states: &[State]) {
    if states.is_empty() {
        return;
    }
    query.push(" AND e.state || '' IN (");
    for (i, state) in distinct(states).enumerate() {
        query.push(if i == 0 { "" } else { ", " }).push_bind(state.as_str());
    }
    query.push(")");
}

/// However often one is named, so that it gives no row twice and no statement without end.
fn distinct(states: &[State]) -> impl Iterator<Item = State> + use<'_> {
    State::ALL.into_iter().filter(|state| states.contains(state))
}

fn earliest(since: Timestamp) -> EvaluationId {
    let micros = i64::try_from(ID_EARLIER_MAX.as_micros()).unwrap_or(i64::MAX);
    EvaluationId::new(Timestamp::from_micros(since.as_micros().saturating_sub(micros)), [0; 10])
}

#[cfg(test)]
mod tests {
    //! White box: what the engine plans to do for each kind of filter.

    use hood_core::BatchId;

    use super::*;
    use crate::testing::{memory, plan};

    #[tokio::test]
    async fn every_list_is_read_in_its_order_from_an_index() {
        let mut db = memory().await;
        let id = EvaluationId::new(Timestamp::from_micros(1), [0; 10]);
        let label = || ("a".to_owned(), "b".to_owned());
        let some = || Filter { since: Some(Timestamp::from_micros(1)), ..Filter::default() };
        let none = Filter::default;
        for (filter, index) in [
            (some(), "e USING COVERING INDEX sqlite_autoindex_evaluations_1"),
            (none(), "e USING COVERING INDEX sqlite_autoindex_evaluations_1"),
            (Filter { states: vec![State::Failed], ..none() }, "e USING COVERING INDEX evaluations_state"),
            (Filter { states: State::ALL.to_vec(), ..none() }, "e USING COVERING INDEX evaluations_state"),
            (Filter { dead: Some(Dead::All), ..none() }, "e USING COVERING INDEX evaluations_dead"),
            (Filter { dead: Some(Dead::Left), ..some() }, "e USING COVERING INDEX evaluations_dead"),
            (
                Filter { batch: Some(BatchId::from_uuid(id.as_uuid())), ..some() },
                "e USING INDEX evaluations_batch",
            ),
            (Filter { labels: vec![label()], ..some() }, "d USING COVERING INDEX sqlite_autoindex_labels_1"),
            (
                Filter { labels: vec![label(), label()], states: State::ALL.to_vec(), ..some() },
                "d USING COVERING INDEX sqlite_autoindex_labels_1",
            ),
        ] {
            for cursor in [None, Some(id)] {
                let tenant = Tenant::default();
                let search = Search { tenant: &tenant, filter: &filter, cursor, rows: 10 };
                let mut query = Builder::new("");
                search.push(&mut query);
                let plan = plan(&mut db, query.sql()).await;
                let search = plan.lines().find(|line| line.starts_with("SEARCH")).unwrap_or_default();
                let whole = index.replace("COVERING ", "");
                assert!(search.contains(index) || search.contains(&whole), "{filter:?}:\n{plan}");
                assert!(!plan.lines().any(|line| line.starts_with("SCAN e")), "{filter:?}:\n{plan}");
            }
        }
    }
}
