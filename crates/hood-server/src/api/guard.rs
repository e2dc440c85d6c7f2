//! What stands before every handler, from the outside in: the request's id, its record and its
//! answer's last touches (`edge`), the name that it was sent to (`host`), the page that sent it
//! (`origin`), whose it is (`caller`) and how many come (`rate`).

mod caller;
mod edge;
mod host;
mod origin;
mod rate;
mod request_id;

pub use caller::token_hash;
pub(crate) use caller::{Caller, Keyring, authenticate};
pub(crate) use edge::{observe, part};
pub use host::HostPolicy;
pub(crate) use host::check_host;
pub(crate) use origin::check_origin;
pub(crate) use rate::StreamPermit;
