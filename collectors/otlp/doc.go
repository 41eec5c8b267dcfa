// Package otlp takes OpenTelemetry's metrics over HTTP (protobuf and JSON) and gRPC, and its logs over gRPC.
//
// What a data point is called as a series decides Prometheus' own translation (storage/remote/otlptranslator), so that a name here is the
// name there. It is asked once for each series: after that a number's series is found by the hash of the bytes that the sender calls
// it by, resource and scope and attributes, without a translation. Histograms, summaries and exemplars go through the translation each time.
package otlp
