// Package watch runs the alert rules of all projects: Prometheus rule groups on upstream's rule manager, and keyword
// rules on the stream of logs. What they raise goes to the project's notify.Manager, and each alert that begins or ends
// is an event on the bus, on which autoscaling acts.
//
// Rules and receivers are resources in the control store; rules may also come from files in Prometheus' format, and the
// routing from a file in Alertmanager's.
package watch
