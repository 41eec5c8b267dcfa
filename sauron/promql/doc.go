// Package promql answers Prometheus' HTTP API: instant and range queries, series, labels, metadata, exemplars and remote read.
// Queries run on the upstream engine over whatever Source it is given, so they mean what they mean in Prometheus; parameters,
// answers, error types and status codes are those of Prometheus too.
//
// It stores nothing and knows no store. Every answer of a query says in the header X-Kemi-Stats what it cost and how fresh and
// complete it is; an answer that is not complete also carries a warning.
package promql
