//! API keys that nobody asked for: the first start makes one, or whoever owns the database does.

use anyhow::Context as _;
use hood_core::{Tenant, Timestamp};
use hood_store::{Duty, NewKey, Store};

use super::data_dir::DataDir;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;

/// Bytes of randomness in a token.
const TOKEN_BYTES: usize = 32;

/// What a token begins with, so that a leaked one is recognised for what it is.
const TOKEN_PREFIX: &str = "fh_";

/// The key that commands of this user have; the first start makes one. One whose file was lost is
/// replaced by another, since only its hash is known.
pub(super) async fn token(
    data_dir: &DataDir,
    store: &Store,
    now: Timestamp,
) -> anyhow::Result<(String, bool)> {
    if let Some(token) = data_dir.token()?
        && store.find_key(hash(&token).as_bytes()).await?.is_some()
    {
        return Ok((token, false));
    }
    let (token, key) = draw(store, now);
    // Kept first: a key that the store has and nobody knows would be of no use, and never be replaced.
    data_dir.keep_token(&token)?;
    store.insert_key(&key).await.context("cannot store the API key")?;
    Ok((token, true))
}

fn draw(store: &Store, now: Timestamp) -> (String, NewKey) {
    let random: [u8; TOKEN_BYTES] = rand::random();
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let token = format!("{TOKEN_PREFIX}{hex}");
    let key = NewKey {
        tenant: Tenant::default(),
        // On a database that several share nobody's start takes another one's key away.
        name: if store.is_shared() { format!("default {}", &hex[..8]) } else { "default".to_owned() },
        hash: *hash(&token).as_bytes(),
        created_at: now,
    };
    (token, key)
}

fn hash(token: &str) -> blake3::Hash {
    blake3::hash(token.as_bytes())
}

/// Makes a key where the store has none at all. A role that runs apart may lack the right to; whoever
/// migrates has it. True if one was made.
pub(super) async fn first_token(data_dir: &DataDir, store: &Store, now: Timestamp) -> anyhow::Result<bool> {
    if store.has_keys().await? {
        return Ok(false);
    }
    let (_, is_new) = token(data_dir, store, now).await.context("`fumehood migrate` makes the first key")?;
    Ok(is_new)
}

/// The first key of a database that was just migrated, kept in the data directory; `None` where there is one.
pub async fn make_first(config: &Config) -> anyhow::Result<Option<String>> {
    let store = Store::open(config.store(Duty::Migrate)?).await.context("cannot open the store")?;
    let made = async {
        if store.has_keys().await? {
            return Ok(None);
        }
        let (token, key) = draw(&store, SystemClock.now());
        // An API that waits for this may hold the directory already.
        DataDir::keep_token_in(&config.data_dir, &token)?;
        store.insert_key(&key).await.context("cannot store the API key")?;
        Ok(Some(token))
    }
    .await;
    store.close().await;
    made
}
