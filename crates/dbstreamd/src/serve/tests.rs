//! Both servers over a real log, real sockets and real clients.
