//! Lists come in pages; a person asks for a number.

use hood_client::Error;

/// One page asks for no more than any server gives.
const PAGE: u32 = 100;

/// The first `wanted` items, and the cursor of what follows them. `page` is asked for at most so many after
/// a cursor.
pub(super) async fn collect<T>(
    wanted: usize,
    mut page: impl AsyncFnMut(Option<String>, u32) -> Result<(Vec<T>, Option<String>), Error>,
) -> Result<(Vec<T>, Option<String>), Error> {
    let mut items = Vec::new();
    let mut cursor = None;
    loop {
        let missing = u32::try_from(wanted - items.len()).unwrap_or(PAGE).min(PAGE);
        let (more, next) = page(cursor, missing).await?;
        items.extend(more);
        if next.is_none() || items.len() >= wanted {
            return Ok((items, next));
        }
        cursor = next;
    }
}
