// Package store is the contracts of what keeps data: SeriesStore for metrics, LogStore for logs, Control for
// the small state that people and agents set (rules, hosts, groups, tokens). Each has an embedded back-end and others for
// where one machine is outgrown, and one conformance suite in pipeline/storetest.
//
// The speed layer's stores take what they hold from the log of record, in order, and keep with their data how far they
// have come: Positions. After a crash they are given again what follows. To be given a record twice changes nothing.
//
// Identity is an argument of every read: a store adds the identity's project to the selection, it does not filter the
// result.
package store
