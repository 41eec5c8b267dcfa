package scrape

import (
	// The ways to find targets register themselves with upstream's configuration when they are linked.
	_ "github.com/prometheus/prometheus/discovery/dns"
	_ "github.com/prometheus/prometheus/discovery/file"
	_ "github.com/prometheus/prometheus/discovery/http"

	_ "kemi/collectors/kubesd"
)

// discoveries are the keys of a job under which targets are found, beside static_configs.
var discoveries = []string{"file_sd_configs", "dns_sd_configs", "http_sd_configs", "kubernetes_sd_configs"}
