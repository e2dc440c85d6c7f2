//! Carries a plan out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::database::{Stall, blocking};
use crate::fleet::Fleet;
use crate::history::{How, Incident, Victim, What, now};
use crate::plan::{Aim, Blow};
use crate::witness::Witness;

/// How long a blow waits for what it is aimed at, before it falls anyway.
const AIM_PATIENCE: Duration = Duration::from_secs(15);
/// How long the database is held for a moment worth striking at, before it is let go to try again.
const STALL_MAX: Duration = Duration::from_millis(400);
const POLL: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(crate) struct Storm<'a> {
    pub(crate) fleet: &'a mut Fleet,
    pub(crate) witness: &'a mut Witness,
    pub(crate) incidents: Vec<Incident>,
}

impl Storm<'_> {
    pub(crate) async fn run(&mut self, plan: &[Blow]) -> anyhow::Result<()> {
        for (index, blow) in plan.iter().enumerate() {
            tokio::time::sleep(blow.pause).await;
            self.fleet.check_alive()?;
            let stall = self.aim(blow).await?;
            self.strike(blow, stall).await.with_context(|| format!("blow {}: {blow}", index + 1))?;
        }
        Ok(())
    }

    /// Waits for the moment that the blow is aimed at. Where writing would end the moment, the
    /// database is held in it.
    async fn aim(&mut self, blow: &Blow) -> anyhow::Result<Option<Stall>> {
        let what = match blow.aim {
            Aim::Blind => return Ok(None),
            Aim::Provisioning => What::Ordered,
            Aim::Running => What::Released,
            Aim::Ending => What::Ended,
        };
        let owners = self.owners(blow.victim);
        let deadline = Instant::now() + AIM_PATIENCE;
        while Instant::now() < deadline {
            let stall = match what {
                What::Released => None,
                What::Ordered | What::Ended => Some(self.fleet.database.stall().await?),
            };
            let since = now();
            // An order is as old as its claim; an end counts only if it cannot have been written.
            let since = if what == What::Ended { since } else { since - 3_000_000 };
            let until = Instant::now() + STALL_MAX;
            while Instant::now() < until {
                self.witness.look()?;
                if self.witness.someone_is(what, since, &owners) {
                    return Ok(stall);
                }
                tokio::time::sleep(POLL).await;
            }
            if let Some(stall) = stall {
                stall.end().await?;
            }
        }
        Ok(None)
    }

    /// Whose places count for a blow: the victim's own, if it has any.
    fn owners(&self, victim: Victim) -> Vec<usize> {
        let all = self.fleet.dispatching();
        match victim {
            Victim::Member(member) if all.contains(&member) => vec![member],
            _ => all,
        }
    }

    async fn strike(&mut self, blow: &Blow, stall: Option<Stall>) -> anyhow::Result<()> {
        let Blow { victim, how, hold, .. } = *blow;
        self.incidents.push(Incident { at: now(), victim, how });
        match victim {
            Victim::Member(index) => self.strike_member(index, how, (hold, stall)).await,
            Victim::Database => self.strike_database(how, (hold, stall)).await,
            Victim::Bus => self.strike_bus(how, (hold, stall)).await,
            Victim::Pair(index) => self.part(index, (hold, stall)).await,
        }
    }

    async fn part(&mut self, index: usize, (hold, stall): (Duration, Option<Stall>)) -> anyhow::Result<()> {
        let (one, other) = self.fleet.pairs[index].parties;
        let network = self.fleet.network.as_ref().context("there is no network to part anybody in")?;
        network.cut(one, other)?;
        if let Some(stall) = stall {
            stall.end().await?;
        }
        tokio::time::sleep(hold).await;
        network.mend(one, other)
    }

    async fn strike_database(
        &mut self,
        how: How,
        (hold, stall): (Duration, Option<Stall>),
    ) -> anyhow::Result<()> {
        let database = &self.fleet.database;
        match how {
            How::Kill => {
                // What is frozen dies as it stands.
                database.kill().await?;
                tokio::time::sleep(hold).await;
                database.restart().await
            }
            How::Freeze | How::Part => {
                let stall = match stall {
                    Some(stall) => stall,
                    None => database.stall().await?,
                };
                tokio::time::sleep(hold).await;
                stall.end().await
            }
        }
    }

    async fn strike_bus(&mut self, how: How, (hold, stall): (Duration, Option<Stall>)) -> anyhow::Result<()> {
        let bus = Arc::clone(self.fleet.bus.as_ref().context("there is no Redis")?);
        let first = Arc::clone(&bus);
        match how {
            How::Kill => blocking(move || first.kill9()).await?,
            How::Freeze | How::Part => blocking(move || first.freeze()).await?,
        }
        if let Some(stall) = stall {
            stall.end().await?;
        }
        tokio::time::sleep(hold).await;
        match how {
            How::Kill => blocking(move || bus.restart()).await,
            How::Freeze | How::Part => blocking(move || bus.thaw()).await,
        }
    }

    async fn strike_member(
        &mut self,
        index: usize,
        how: How,
        (hold, stall): (Duration, Option<Stall>),
    ) -> anyhow::Result<()> {
        let member = &mut self.fleet.members[index];
        match how {
            How::Kill => member.kill().await?,
            How::Freeze | How::Part => member.freeze()?,
        }
        if let Some(stall) = stall {
            stall.end().await?;
        }
        tokio::time::sleep(hold).await;
        match how {
            How::Kill => {
                self.witness.look()?;
                self.witness.forget(index);
                member.spawn()?;
                member.until_ready(&self.fleet.http).await
            }
            How::Freeze | How::Part => member.thaw(),
        }
    }
}
