//! What an evaluation waits for while its environment is built: told beside its events, as news of the
//! moment that nobody keeps.

use hood_core::State;
use hood_wire::api::{Building, EnvironmentState};

use crate::api::catalogue;
use crate::api::watch::Watch;

/// What one listener was told of the build. It is told each change once, and no more often than it
/// looks.
#[derive(Debug, Default)]
pub(super) struct News {
    /// The evaluation's, once it was asked for.
    environment: Option<String>,
    told: Option<Building>,
}

impl News {
    /// What has changed since the last look; `None` also where nothing can be said: news are no
    /// promise.
    pub(super) async fn look(&mut self, watch: &Watch, state: State) -> Option<Building> {
        if state != State::Provisioning {
            return None;
        }
        let now = self.building(watch).await?;
        if self.told.as_ref() == Some(&now) {
            return None;
        }
        self.told = Some(now.clone());
        Some(now)
    }

    async fn building(&mut self, watch: &Watch) -> Option<Building> {
        let catalogue = catalogue::find(watch.state()).await.ok()??;
        let being_built =
            |environment: &&hood_wire::api::Environment| environment.state == EnvironmentState::Building;
        if !catalogue.environments().iter().any(|environment| being_built(&environment)) {
            return None;
        }
        if self.environment.is_none() {
            let record = watch.state().store().get(watch.tenant(), watch.id()).await.ok()?;
            self.environment = Some(record.environment.clone());
        }
        let environment = catalogue.environment(self.environment.as_deref()).filter(being_built)?;
        Some(Building { environment: environment.name.clone(), progress: environment.progress.clone()? })
    }
}
