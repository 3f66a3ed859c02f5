//! Both servers over a real log on a real disk, with real sockets and clients.

mod delivery;
mod epochs;
mod fixture;
mod http;
mod limits;
mod typed;
