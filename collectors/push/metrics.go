package push

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	requests *prometheus.CounterVec // protocol, code
	accepted *prometheus.CounterVec // protocol, kind
	refused  *prometheus.CounterVec // protocol, kind
	bytes    *prometheus.CounterVec // protocol
	noMemory prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, p *Push) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_collectors_push_requests_total", Help: "Requests of senders, by how they were answered."}, []string{"protocol", "code"}),
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_collectors_push_accepted_total", Help: "What was published: samples, histograms, exemplars, log records."}, []string{"protocol", "kind"}),
		refused:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_collectors_push_refused_total", Help: "What was refused because something is wrong with it."}, []string{"protocol", "kind"}),
		bytes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kemi_collectors_push_bytes_total", Help: "Bytes of requests as they were sent."}, []string{"protocol"}),
		noMemory: prometheus.NewCounter(prometheus.CounterOpts{Name: "kemi_collectors_push_out_of_memory_total", Help: "Requests sent away because the memory for requests under way was taken."}),
	}
	reg.MustRegister(m.requests, m.accepted, m.refused, m.bytes, m.noMemory,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kemi_collectors_push_known_series", Help: "Series that are found without parsing their labels."}, func() float64 {
			n, _ := p.table.Len()
			return float64(n)
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kemi_collectors_push_known_series_bytes", Help: "About the memory that they take."}, func() float64 {
			_, n := p.table.Len()
			return float64(n)
		}))
	return m
}
