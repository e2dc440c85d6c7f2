//! Black box: through the public interface only, so that a second database can be held to the same
//! suite. What looks into SQLite's file is in `sqlite` and says so.

mod accept;
mod blobs;
mod bus;
mod cancel;
mod commit;
mod concurrency;
mod crash;
mod leases;
mod list;
mod moving;
mod output;
mod replay;
mod small;
mod sqlite;
mod storage;
mod support;
mod wake;
