package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kemi"
	"kemi/collectors/tail"
	"kemi/pipeline/transform"
)

func TestBadConfig(t *testing.T) {
	good := DefaultConfig()
	for want, change := range map[string]func(c *Config){
		`server: "localhost:7070"`:          func(c *Config) { c.Server = "localhost:7070" },
		`server: ""`:                        func(c *Config) { c.Server = "" },
		`server: "ftp://x"`:                 func(c *Config) { c.Server = "ftp://x" },
		"interval: 10ms: must be":           func(c *Config) { c.Interval = 10 * time.Millisecond },
		"journalSince: -1s":                 func(c *Config) { c.JournalSince = -time.Second },
		"spool.dir: empty":                  func(c *Config) { c.Spool.Dir = "" },
		"spool.maxBytes: 5: must":           func(c *Config) { c.Spool.MaxBytes = 5 },
		`labels: "9x": "y"`:                 func(c *Config) { c.Labels = map[string]string{"9x": "y"} },
		`labels: host: is the`:              func(c *Config) { c.Labels = map[string]string{"host": "y"} },
		`tls: cert "c" and key ""`:          func(c *Config) { c.TLS.Cert = "c" },
		`logs[0].paths: empty`:              func(c *Config) { c.Logs = []tail.Config{{}} },
		`logs[1].from: "x"`:                 func(c *Config) { c.Logs = []tail.Config{tailConfig("/x"), {Paths: []string{"/x"}, From: "x"}} },
		`pipelines: pipeline "p": steps: 0`: func(c *Config) { c.Pipelines = []transform.Pipeline{{Name: "p"}} },
		`pipelines: p: step 1: route: project "x": an agent`: func(c *Config) {
			c.Pipelines = []transform.Pipeline{{Name: "p", Steps: []transform.Step{{Route: &transform.Route{Project: "x"}}}}}
		},
		`logs[0].multiline.start: `: func(c *Config) {
			c.Logs = []tail.Config{{Paths: []string{"/x"}, Multiline: tail.Multiline{Start: "["}}}
		},
	} {
		c := good
		change(&c)
		if err := c.Validate(true); !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	if err := good.Validate(true); err != nil {
		t.Error(err)
	}
	good.Server = ""
	if err := good.Validate(false); err != nil {
		t.Error(err)
	}
}

func TestLoadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("server: https://kemi:7070\nhostname: h\ninterval: 5s\njournal: false\nlogs:\n  - paths: [/var/log/*.log]\n    service: pay\n    labels: {app: a}\n    multiline: {start: '^\\d', timeout: 1s}\nspool: {dir: /x, maxBytes: 2000000}\nlabels: {rack: r1}\n")
	c := DefaultConfig()
	if err := LoadConfig(path, &c); err != nil || c.Interval != 5*time.Second || c.Logs[0].Multiline.Timeout != time.Second || c.Spool.MaxBytes != 2_000_000 || c.Journal || !c.Host.Enabled || c.Labels["rack"] != "r1" {
		t.Errorf("%+v %v", c, err)
	}
	for content, want := range map[string]string{"interval: 5s\nintervall: 6s\n": "line 2: field intervall not found", "interval: soon": "soon", "logs: [{path: /x}]": "field path not found"} {
		write(content)
		if err := LoadConfig(path, &c); !errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %s", content, err, want)
		}
	}
	if c := DefaultConfig(); LoadConfig("", &c) != nil || c.Interval != 10*time.Second {
		t.Errorf("%+v", c)
	}
	if err := LoadConfig(path+".no", &c); !errors.Is(err, kemi.ErrInvalid) {
		t.Errorf("error %v", err)
	}
}
