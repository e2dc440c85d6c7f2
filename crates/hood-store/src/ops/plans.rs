//! White box: what both engines plan to do with the statements of the hot path. A queue of a million must
//! cost what a queue of ten costs, and so must a million that have ended; a clock cannot show that on a
//! busy machine.

use super::{client, commit, inputs, lease, output};
use crate::db::{Connection, Rows, postgres, query};
use crate::migrate::{Duty, ensure};
use crate::read;
use crate::testing::{memory, plan};

/// Rows in one statement, as when many come together.
const ROWS: usize = 64;

struct Hot {
    name: &'static str,
    /// What comes before and after the rows, and what locks.
    text: (&'static str, &'static str, &'static str),
    /// Of a row.
    types: &'static [&'static str],
}

const HOT: [Hot; 6] = [
    Hot { name: "requests", text: (lease::REQUESTS.0, lease::REQUESTS.1, ""), types: &["text", "uuid"] },
    Hot { name: "inputs", text: (inputs::KEEP.0, inputs::KEEP.1, ""), types: &["text"] },
    Hot { name: "hold", text: commit::HOLD, types: &["text", "uuid", "bigint", "bigint"] },
    Hot {
        name: "measure",
        text: (output::MEASURE.0, output::MEASURE.1, ""),
        types: &["text", "uuid", "bigint"],
    },
    Hot {
        name: "evaluations",
        text: (commit::record::EVALUATIONS.0, commit::record::EVALUATIONS.1, ""),
        types: &[
            "text", "uuid", "bigint", "bigint", "text", "text", "bigint", "bigint", "bigint", "bigint",
            "bigint", "bigint", "bigint", "bigint", "bigint", "text",
        ],
    },
    Hot {
        name: "attempts",
        text: (commit::record::ATTEMPTS.0, commit::record::ATTEMPTS.1, ""),
        types: &[
            "text", "uuid", "bigint", "text", "text", "bigint", "bigint", "bigint", "bigint", "bigint",
            "bigint",
        ],
    },
];

impl Hot {
    fn sql(&self, lock: &str) -> String {
        Rows::text((self.text.0, self.text.1), (self.types.len(), ROWS)) + lock
    }
}

#[tokio::test]
async fn sqlite_finds_each_row_by_its_key() {
    let mut db = memory().await;
    for hot in HOT {
        let plan = plan(&mut db, &hot.sql("")).await;
        assert!(plan.contains("SEARCH") && plan.contains("USING INDEX"), "{}:\n{plan}", hot.name);
        for line in plan.lines().filter(|line| line.starts_with("SCAN")) {
            assert!(["SCAN v", "SCAN 64 CONSTANT ROWS"].contains(&line), "{line} of {}:\n{plan}", hot.name);
        }
    }
}

/// With much in the tables and the counts of when they were empty, with counts that are right, and with an
/// index that has grown since.
#[tokio::test]
async fn postgres_finds_each_row_by_its_key_whatever_it_has_counted() {
    if let Some(missing) = hood_testkit::missing() {
        eprintln!("\nSKIPPED: postgres: {missing}");
        return;
    }
    const FILL: &str = "INSERT INTO evaluations (tenant, id, state, priority, environment, labels, position, \
         created_at, queued_at, ready, last_event, attempts, losses_infrastructure, losses_own_death, \
         losses_suspect, lease_token, lease_epoch) SELECT 'default', gen_random_uuid(), \
         CASE WHEN n % 2 = 0 THEN 'queued' ELSE 'succeeded' END, 0, 'minimal', '{}', 0, n, n, \
         CASE WHEN n % 2 = 0 THEN 1 ELSE 0 END, 1, 0, 0, 0, 0, 0, 0 FROM generate_series(1, 20000) AS n";
    const REQUESTS: &str = "INSERT INTO requests SELECT tenant, id, 'r' FROM evaluations";
    const ATTEMPTS: &str = "INSERT INTO attempts (tenant, evaluation, number, leased_at, stdout_bytes, stderr_bytes, \
         output_cut) SELECT tenant, id, 1, 0, 0, 0, 0 FROM evaluations";
    const BLOBS: &str = "INSERT INTO blobs (name, tenant, evaluation, part, state, noted_at, bytes, digest) \
         SELECT 'inputs/' || id, tenant, id, 'input', 'kept', 0, 0, '' FROM evaluations";
    const LEASE: &str =
        "UPDATE evaluations SET lease_expires_at = 1, state = 'running' WHERE state = 'queued'";
    let url = hood_testkit::postgres().await.fresh_database().await;
    let url = crate::db::DatabaseUrl::parse(&url).expect("an address");
    let mut connection = postgres::connect_writer(&url).await.expect("connects");
    let db = &mut Connection::Postgres(&mut connection);
    ensure(db, "postgres", Duty::Migrate).await.expect("migrates");
    query("ANALYZE").execute(db).await.expect("counts");
    for fill in [FILL, REQUESTS, ATTEMPTS, BLOBS] {
        query(fill).execute(db).await.expect("fills");
    }
    look_at_all(db, "counted when empty").await;
    query("ANALYZE").execute(db).await.expect("counts");
    look_at_all(db, "counted").await;
    query(LEASE).execute(db).await.expect("leases");
    look_at_all(db, "counted before anything was leased").await;
    query("ANALYZE").execute(db).await.expect("counts");
    query(FILL).execute(db).await.expect("fills");
    look_at_all(db, "counted when nothing waited").await;
}

async fn look_at_all(db: &mut Connection<'_>, when: &str) {
    for hot in HOT {
        let types = vec![hot.types.join(", "); ROWS].join(", ");
        let plan = explain(db, &hot.sql(hot.text.2), (&types, hot.types.len() * ROWS)).await;
        assert_by_key(&plan, (hot.name, when));
    }
    let renew = explain(db, lease::RENEW, ("text, uuid, bigint, bigint, bigint", 5)).await;
    assert_by_key(&renew, ("renew", when));
    // What walks an index, and which.
    for (sql, parameters, index) in [
        (lease::TAKE.postgres, ("bigint, bigint, text, bigint, bigint", 5), "evaluations_ready"),
        (lease::MOVE_DUE.postgres, ("bigint, bigint", 2), "evaluations_waiting"),
        (lease::EXPIRED.postgres, ("bigint, bigint", 2), "evaluations_leased"),
        (client::OLD.postgres, ("bigint, bigint", 2), "evaluations_oldest"),
        (read::OLDEST, ("text", 1), "evaluations_oldest"),
    ] {
        let plan = explain(db, sql, parameters).await;
        assert!(plan.contains(&format!("Index Scan using {index}")), "{when}, not by {index}:\n{plan}");
        assert!(!plan.contains("Seq Scan"), "{when}:\n{plan}");
        // What was found is few, and may be sorted; what is looked through may not.
        let (_, looked_through) = plan.split_once("Limit").unwrap_or_default();
        assert!(!looked_through.is_empty() && !looked_through.contains("Sort"), "{when}:\n{plan}");
    }
}

fn assert_by_key(plan: &str, of: (&str, &str)) {
    let scans = plan.lines().filter(|line| line.contains("Scan using") || line.contains("Seq Scan"));
    for scan in scans {
        assert!(scan.contains("_pkey"), "{scan} of {of:?}:\n{plan}");
    }
    let by_key = ["Index Cond: ((tenant = ", "Index Cond: (name = "].iter().any(|key| plan.contains(key));
    assert!(by_key, "{of:?}:\n{plan}");
}

/// The plan that is kept, whatever the parameters.
async fn explain(db: &mut Connection<'_>, sql: &str, (types, parameters): (&str, usize)) -> String {
    let nothing = vec!["NULL"; parameters].join(", ");
    db.script(format!("PREPARE hot ({types}) AS {sql}")).await.expect("is a statement");
    let mut explain = crate::db::Builder::new("EXPLAIN EXECUTE hot (");
    explain.push(&nothing).push(")");
    let rows = explain.build().fetch_all(db).await.expect("has a plan");
    db.script("DEALLOCATE hot").await.expect("is forgotten");
    rows.iter().map(|row| row.try_get::<String>("QUERY PLAN").expect("text") + "\n").collect()
}
