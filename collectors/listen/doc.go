// Package listen is listeners for protocols that have no requests and no credentials: lines over TCP, TLS, UDP and Unix sockets, as OpenTSDB's
// telnet, Graphite and StatsD are spoken.
//
// Such a sender cannot say who it is, so the listener says it: its configuration names a token, and what comes in is that token's, with its
// project and permissions, as if each connection had sent it. Without a token there is no listener, and one that others can reach
// than this machine needs to be told whom to let in, by address or by client certificate.
package listen
