//! Services that tests need beside them, real ones: PostgreSQL and Redis, from the host's packages, and
//! an S3 server, on free ports and in directories of their own. They end with the test process, however it ends.

mod guard;
mod postgres;
mod redis;
mod s3;
mod service;

pub use postgres::{Postgres, PostgresOptions, postgres};
pub use redis::Redis;
pub use s3::S3;
pub use service::{Location, missing};
