# shellcheck shell=bash
# Sourced by the other scripts: the tools that they all use.

# Where rustup puts cargo, for shells that have not read its profile; before a distribution's own.
PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
# Otherwise rustup brings the whole toolchain up to date as soon as rust-toolchain.toml names a part
# that is missing, which nobody asked for. What is needed is added by name.
export RUSTUP_AUTO_INSTALL=0
