//! Taking evaluations, and keeping them.

use std::cmp::Reverse;

use hood_core::Timestamp;
use hood_core::lifecycle::AnyEvaluation;

use super::book::{Book, Name};
use super::row::{Row, corrupt};
use crate::error::StoreError;
use crate::model::{Claimed, Lapsed, Lease, Renewed, Tenure};

impl Book {
    pub(super) fn claim(
        &mut self,
        tenure: &Tenure,
        limit: u32,
        epoch: u64,
    ) -> Result<Vec<Claimed>, StoreError> {
        for row in self.rows.values_mut() {
            row.ready |= row.not_before().is_some_and(|due| due <= tenure.now);
        }
        let mut ready: Vec<_> = self
            .rows
            .iter()
            .filter(|(_, row)| row.ready)
            .map(|(name, row)| (Reverse(row.priority), name))
            .collect();
        ready.sort_by_key(|(priority, name)| (*priority, name.1));
        let names: Vec<Name> = ready.into_iter().take(limit as usize).map(|(_, name)| name.clone()).collect();
        let mut claimed = Vec::with_capacity(names.len());
        for name in names {
            let Some(row) = self.rows.get_mut(&name) else { continue };
            let AnyEvaluation::Queued(queued) = row.evaluation else {
                return Err(corrupt("claimed, and not queued"));
            };
            row.step(&queued.lease(tenure.now).transition)?;
            claimed.push(take(&name, row, tenure, epoch));
        }
        Ok(claimed)
    }

    pub(super) fn reclaim(&mut self, tenure: &Tenure, limit: u32, which: Lapsed, epoch: u64) -> Vec<Claimed> {
        let lapsed = |row: &Row| {
            row.lease.expires_at.filter(|expires_at| match which {
                Lapsed::Expired => *expires_at <= tenure.now,
                Lapsed::All => row.lease.epoch < epoch,
            })
        };
        let mut names: Vec<_> =
            self.rows.iter().filter_map(|(name, row)| Some((lapsed(row)?, name.clone()))).collect();
        names.sort();
        names.truncate(limit as usize);
        let take_over = |(_, name): (Timestamp, Name)| {
            let row = self.rows.get_mut(&name)?;
            Some(take(&name, row, tenure, epoch))
        };
        names.into_iter().filter_map(take_over).collect()
    }

    pub(super) fn renew(&mut self, leases: &[Lease], expires_at: Timestamp) -> Vec<Renewed> {
        let renew = |lease| match self.held(lease) {
            Some(row) => {
                row.lease.expires_at = Some(expires_at);
                Renewed::Held { cancel: row.cancel }
            }
            None => Renewed::Lost,
        };
        leases.iter().map(renew).collect()
    }

    /// The row, if this lease holds it.
    pub(super) fn held(&mut self, lease: &Lease) -> Option<&mut Row> {
        self.of_lease(lease).filter(|row| row.lease.expires_at.is_some())
    }

    /// The row, if nobody else has held it since.
    pub(super) fn of_lease(&mut self, lease: &Lease) -> Option<&mut Row> {
        let row = self.rows.get_mut(&(lease.tenant.clone(), lease.evaluation))?;
        let attempt = row.evaluation.history().attempts;
        (row.lease.token == lease.token && attempt == lease.attempt).then_some(row)
    }
}

fn take((tenant, id): &Name, row: &mut Row, tenure: &Tenure, epoch: u64) -> Claimed {
    let expires_at = tenure.until();
    row.lease.token += 1;
    row.lease.epoch = epoch;
    row.lease.expires_at = Some(expires_at);
    let lease = Lease {
        tenant: tenant.clone(),
        evaluation: *id,
        token: row.lease.token,
        attempt: row.evaluation.history().attempts,
        expires_at,
    };
    Claimed {
        lease,
        evaluation: row.evaluation,
        request: row.input.as_ref().unwrap_or(&row.request).clone(),
        input: None,
        cancel: row.cancel,
        created_at: row.created_at,
    }
}
