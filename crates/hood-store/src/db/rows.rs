//! One statement over many rows, on whichever engine is there: `VALUES ($1, $2), ($3, $4)` is the same
//! for both. What costs is the statement, not the row, and most of all where a server must be asked.

use super::{Builder, Connection, Row, Value};

/// Rows of one statement. They come in powers of two up to this, so that the texts that a connection
/// keeps prepared are few; and it bounds the parameters, of which PostgreSQL takes 65,535 and SQLite
/// half of that.
const ROWS_MAX: usize = 64;

/// A statement around its rows.
#[derive(Debug)]
pub(crate) struct Rows {
    front: &'static str,
    back: &'static str,
    /// After `back`, where other transactions may write at the same time.
    lock: &'static str,
    width: usize,
    values: Vec<Value>,
}

/// One of a [`Rows`]: what is to stand in its columns.
macro_rules! row {
    ($($value:expr),* $(,)?) => {
        [$($crate::db::Value::from($value)),*]
    };
}
pub(crate) use row;

impl Rows {
    pub(crate) fn of(front: &'static str, back: &'static str) -> Self {
        Self { front, back, lock: "", width: 0, values: Vec::new() }
    }

    pub(crate) fn locking(mut self, lock: &'static str) -> Self {
        self.lock = lock;
        self
    }

    /// Each of as many columns as the first.
    pub(crate) fn push<const N: usize>(&mut self, row: [Value; N]) {
        self.width = N;
        self.values.extend(row);
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or_default()
    }

    /// How many rows it changed.
    pub(crate) async fn execute(mut self, db: &mut Connection<'_>) -> Result<u64, sqlx::Error> {
        let mut changed = 0;
        while let Some(statement) = self.next(db) {
            changed += statement.build().execute(db).await?;
        }
        Ok(changed)
    }

    pub(crate) async fn fetch_all(mut self, db: &mut Connection<'_>) -> Result<Vec<Row>, sqlx::Error> {
        let mut rows = Vec::with_capacity(self.len());
        while let Some(statement) = self.next(db) {
            rows.extend(statement.build().fetch_all(db).await?);
        }
        Ok(rows)
    }

    /// The text of a statement of so many columns and rows.
    #[cfg(test)]
    pub(crate) fn text((front, back): (&'static str, &'static str), (width, rows): (usize, usize)) -> String {
        let values = vec![Value::Number(None); width * rows];
        Self { front, back, lock: "", width, values }.statement(rows).sql().to_owned()
    }

    fn next(&mut self, db: &Connection<'_>) -> Option<Builder> {
        let rows = 1 << self.len().min(ROWS_MAX).checked_ilog2()?;
        let mut statement = self.statement(rows);
        if db.is_shared() {
            statement.push(self.lock);
        }
        Some(statement)
    }

    /// Takes so many rows.
    fn statement(&mut self, rows: usize) -> Builder {
        let mut statement = Builder::new(self.front);
        for (i, value) in self.values.drain(..rows * self.width).enumerate() {
            let first = i % self.width == 0;
            statement.push(match i {
                0 => " (",
                _ if first => "), (",
                _ => ", ",
            });
            statement.push_bind(value);
        }
        statement.push(")").push(self.back);
        statement
    }
}

#[cfg(test)]
mod tests {
    //! White box: how many rows go into one statement cannot be seen from outside.

    use super::*;
    use crate::testing::memory;

    #[tokio::test]
    async fn rows_come_in_powers_of_two_and_none_is_left_out() {
        let mut db = memory().await;
        let db = Connection::Sqlite(&mut db);
        for (count, expected) in
            [(0, vec![]), (1, vec![1]), (7, vec![4, 2, 1]), (150, vec![64, 64, 16, 4, 2])]
        {
            let mut rows = Rows::of("INSERT INTO t (a, b) VALUES", "").locking(" FOR UPDATE");
            for i in 0..count {
                rows.push(row![i, "b"]);
            }
            assert_eq!(rows.len(), usize::try_from(count).expect("is small"));
            let texts: Vec<String> =
                std::iter::from_fn(|| rows.next(&db).map(|next| next.sql().to_owned())).collect();
            assert_eq!(texts.iter().map(|text| text.matches('(').count() - 1).collect::<Vec<_>>(), expected);
            assert!(texts.iter().all(|text| !text.contains("FOR UPDATE")), "nobody to wait for: {texts:?}");
        }
        let mut two = Rows::of("INSERT INTO t (a, b) VALUES", "");
        two.push(row![1, "b"]);
        two.push(row![2, "b"]);
        let text = two.next(&db).expect("there are some").sql().to_owned();
        assert_eq!(text, "INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4)");
    }
}
