package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// target is a server to measure.
type target struct {
	name  string
	bin   string
	ready string // answers 2xx when it serves
	write string // remote write 1
	ours  bool   // is asked in OpenTSDB's JSON, where that can ask it
	// args are the server's, graphite the address where it takes Graphite's lines, if not empty.
	args func(dir, data, addr, graphite string) ([]string, error)

	graphiteTaken string // its metric of samples that it took from Graphite; empty = it does not speak line protocols
	graphite      string // the address, for one start
}

func kemiTarget(bin string) target {
	return target{name: "KEMI", bin: bin, ready: "/readyz", write: "/api/v1/write", ours: true, graphiteTaken: `kemi_collectors_push_accepted_total{kind="samples",protocol="graphite"}`, args: func(dir, data, addr, graphite string) ([]string, error) {
		conf := filepath.Join(dir, "kemi.yaml") // its own collecting is switched off
		text := "agent:\n  enabled: false\n"
		if graphite != "" {
			text += fmt.Sprintf("ingest:\n  graphite:\n    listen: [%q]\n    tokenFile: %q\n", graphite, filepath.Join(data, "agent.token"))
		}
		err := os.WriteFile(conf, []byte(text), 0o600)
		return []string{"server", "--dev", "--config", conf, "--data", data, "--listen", addr}, err
	}}
}

func victoriaTarget(bin string) target {
	return target{name: "VictoriaMetrics", bin: bin, ready: "/health", write: "/api/v1/write", graphiteTaken: `vm_rows_inserted_total{type="graphite"}`, args: func(_, data, addr, graphite string) ([]string, error) {
		return []string{"-graphiteListenAddr=" + graphite, "-storageDataPath=" + data, "-httpListenAddr=" + addr, "-retentionPeriod=10y", "-search.maxUniqueTimeseries=2000000", "-search.maxSeries=2000000", "-search.latencyOffset=0s"}, nil
	}}
}

func prometheusTarget(bin string) target {
	return target{name: "Prometheus", bin: bin, ready: "/-/ready", write: "/api/v1/write", args: func(dir, data, addr, _ string) ([]string, error) {
		conf := filepath.Join(dir, "prometheus.yml")
		err := os.WriteFile(conf, []byte("global: {scrape_interval: 1h}\n"), 0o600)
		return []string{
			"--config.file=" + conf, "--storage.tsdb.path=" + data, "--web.listen-address=" + addr, "--web.enable-remote-write-receiver",
			"--query.max-samples=500000000", "--storage.tsdb.retention.time=10y",
		}, err
	}}
}

// command is the server's process on the folder dir/data.
func (t *target) command(dir, addr string) (*exec.Cmd, error) {
	if _, err := os.Stat(t.bin); err != nil {
		return nil, fmt.Errorf("%s: %w", t.name, err)
	}
	args, err := t.args(dir, filepath.Join(dir, "data"), addr, t.graphite)
	if err != nil {
		return nil, err
	}
	return exec.Command(t.bin, args...), nil
}
