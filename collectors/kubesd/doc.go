// Package kubesd finds scrape targets in Kubernetes: kubernetes_sd_configs of Prometheus' configuration, with its roles, selectors and
// __meta_kubernetes_ labels.
//
// Upstream's package of that purpose links the typed clientset, whose types are registered when a program starts: 26 MB of the binary,
// 80 CPU-seconds of its build, and some 13 MB of resident memory in every process of it, the agent included, whether or not it ever
// sees a cluster. This one watches by the dynamic client and reads of each object only what becomes labels (docs/decisions/0011).
//
// The idea: a group of targets is a pure function of one object and of what it looks up in others. Each look-up is remembered, so a change
// of any object makes exactly those groups anew that have asked for it.
package kubesd
