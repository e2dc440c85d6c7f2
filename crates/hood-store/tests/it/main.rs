//! Black box: through the public interface only, SQLite and PostgreSQL held to the same suite. What
//! looks into SQLite's file is in `sqlite` and says so; what several processes on one PostgreSQL do to
//! each other is in `shared`, and what becomes of them without it in `outages`.

mod accept;
mod archive;
mod blobs;
mod bus;
mod cancel;
mod commit;
mod concurrency;
mod crash;
mod dead;
mod deliveries;
mod inputs;
mod leases;
mod list;
mod memory;
mod moving;
mod outages;
mod output;
mod replay;
mod rights;
mod shared;
mod small;
mod sqlite;
mod storage;
mod support;
mod together;
mod transfer;
mod wake;
