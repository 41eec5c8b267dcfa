// Package cmdb is IMS, the inventory: which hosts and services there are, and who owns them.
//
// Two parties speak of a host. People put its spec over the API; agents register what they know of it. The two are kept apart, so that
// neither overwrites the other, and where both name a service, an owner or a zone, people win. A host's owner is its own, else that of its
// service, else what its agent said.
//
// Everything is in memory and, before a call returns, in the control store. Each change is an event on the log of record: it is kept with the
// change in one transaction until it has been published, so a crash between the two loses none. Records that come in are enriched by
// Enrich, a map lookup without locks.
package cmdb
