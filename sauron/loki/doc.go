// Package loki answers Loki's HTTP API (/loki/api/v1, as of Loki 3) from a log store, for Grafana and logcli. Package logql is the language.
package loki
