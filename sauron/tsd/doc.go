// Package tsd answers what OpenTSDB's clients ask beside questions for data: annotations, UIDs and what is known of them, expressions, and what the server tells of
// itself. Questions for data and names are sauron/query's; the routes of both come from here.
package tsd
