//! Services that tests need beside them, real ones: PostgreSQL and Redis, from the host's packages, on
//! free ports and in directories of their own. They end with the test process, however it ends.

mod guard;
mod postgres;
mod redis;
mod service;

pub use postgres::{Postgres, PostgresOptions, postgres};
pub use redis::Redis;
pub use service::missing;
