package app

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"kemi"
	"kemi/alerting/watch"
	"kemi/collectors/scrape"
	"kemi/collectors/snmp"
	"kemi/pipeline/batch"
	"kemi/pipeline/bus"
	"kemi/pipeline/head"
	"kemi/pipeline/lines"
	"kemi/pipeline/wal"
	"kemi/sauron/limit"
	"kemi/sauron/logs"
	"kemi/sauron/promql"
	"kemi/sauron/query"
)

// Config is the whole configuration of a server: one YAML file, every key optional. Each package owns its part.
type Config struct {
	// Listen is the address of the one port that speaks all HTTP.
	Listen string `yaml:"listen"`
	// Data is the folder that holds everything. One server at a time has it.
	Data string `yaml:"data"`
	// Dev makes requests from this machine an admin's without a token. Only with a loopback listen address.
	Dev bool `yaml:"dev"`
	// Role is which part of the server this process runs. Only "all" so far: parts need a bus that they share.
	Role string    `yaml:"role"`
	TLS  TLSConfig `yaml:"tls"`
	Log  LogConfig `yaml:"log"`
	// Memory is the soft limit of the process's memory: a size such as 4GiB, or a share such as 60% of the cgroup or machine.
	Memory string `yaml:"memory"`
	// WriteTimeout is the longest that an answer may take, live streams excepted.
	WriteTimeout time.Duration `yaml:"writeTimeout"`

	Bus      wal.Config     `yaml:"bus"`
	Ingest   IngestConfig   `yaml:"ingest"`
	Metrics  head.Config    `yaml:"metrics"`
	Batch    batch.Config   `yaml:"batch"`
	Logs     lines.Config   `yaml:"logs"`
	Query    query.Config   `yaml:"query"`
	OpenTSDB OpenTSDBConfig `yaml:"opentsdb"`
	PromQL   promql.Config  `yaml:"promql"`
	Limits   limit.Config   `yaml:"limits"`
	Search   logs.Config    `yaml:"search"`
	Alerting watch.Config   `yaml:"alerting"`
	Agent    AgentConfig    `yaml:"agent"`
	Scrape   scrape.Config  `yaml:"scrape"`
	SNMP     snmp.Config    `yaml:"snmp"`

	file string // that it was read from
}

// TLSConfig names the files of a certificate and its key; both or neither.
type TLSConfig struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// LogConfig is about the server's own log, which goes to stderr.
type LogConfig struct {
	Level  string `yaml:"level"`  // debug, info, warn, error
	Format string `yaml:"format"` // text, json
}

// DefaultConfig is what holds where nothing is said.
func DefaultConfig() Config {
	return Config{
		Listen: "127.0.0.1:7070", Data: "./data", Role: "all", Memory: "60%", WriteTimeout: 150 * time.Second,
		Log: LogConfig{Level: "info", Format: "text"},
		Bus: defaultBusConfig(), Ingest: defaultIngestConfig(), Metrics: head.DefaultConfig(), Batch: batch.DefaultConfig(), Logs: lines.DefaultConfig(),
		Query: query.DefaultConfig(), OpenTSDB: defaultOpenTSDBConfig(), PromQL: promql.DefaultConfig(), Limits: limit.DefaultConfig(), Search: logs.DefaultConfig(), Alerting: watch.DefaultConfig(), Agent: defaultAgentConfig(),
		Scrape: scrape.DefaultConfig(), SNMP: snmp.DefaultConfig(),
	}
}

// defaultBusConfig keeps of metrics and logs what the stores behind have not made durable yet, and a little: the stores are what lasts.
// Who wants to make them again from the log says so: topicRetention: {metrics: {}, logs: {}} keeps both as the other topics are kept.
func defaultBusConfig() wal.Config {
	c := wal.DefaultConfig()
	consumed := wal.TopicRetention{Retention: wal.Retention{ConsumedBytes: 1 << 20, ConsumedAge: 10 * time.Minute}, SegmentBytes: 16 << 20}
	c.TopicRetention = map[string]wal.TopicRetention{bus.Metrics: consumed, bus.Logs: consumed}
	return c
}

// envReference is ${NAME}: the value of an environment variable, so that secrets need not stand in the file.
var envReference = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// LoadConfig reads a file over the defaults; an unknown key is an error with its line. An empty name means no file.
func LoadConfig(name string) (Config, error) {
	c := DefaultConfig()
	if name == "" {
		return c, nil
	}
	c.file = name
	b, err := os.ReadFile(name)
	if err != nil {
		return c, kemi.Errorf(kemi.ErrInvalid, "configuration: %w", err)
	}
	var missing []string
	b = envReference.ReplaceAllFunc(b, func(m []byte) []byte {
		v, ok := os.LookupEnv(string(m[2 : len(m)-1]))
		if !ok {
			missing = append(missing, string(m))
		}
		return []byte(v)
	})
	if len(missing) > 0 {
		return c, kemi.Errorf(kemi.ErrInvalid, "configuration %s: not set in the environment: %s", name, strings.Join(missing, ", "))
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return c, kemi.Errorf(kemi.ErrInvalid, "configuration %s: %w", name, err)
	}
	return c, nil
}

// complete sets what follows from other keys: folders below the data folder, and limits that must agree.
func (c *Config) complete() {
	for dir, name := range map[*string]string{&c.Bus.Dir: "bus", &c.Metrics.Dir: "metrics", &c.Batch.Dir: "settled", &c.Logs.Dir: "logs", &c.Agent.Spool.Dir: "agent"} {
		if *dir == "" {
			*dir = filepath.Join(c.Data, name)
		}
	}
	// What is acknowledged must not be refused by the store behind the log.
	c.Ingest.MaxFuture = min(c.Ingest.MaxFuture, c.Metrics.MaxFuture)
	c.Ingest.MaxPast = min(c.Ingest.MaxPast, c.Metrics.Retention)
}

// Validate tells what is wrong, all of it.
func (c Config) Validate() error {
	c.complete()
	var errs []error
	if c.Data == "" {
		errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "data: empty; name a folder"))
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "listen: %q is not host:port", c.Listen))
	}
	if ip := net.ParseIP(host); c.Dev && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "dev: only with a loopback listen address, not %q: it lets everybody in who reaches it", c.Listen))
	}
	if c.Role != "all" {
		errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "role: %q is not \"all\", the one role that there is with an embedded bus", c.Role))
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "tls: needs both cert and key"))
	}
	if _, err := c.Log.level(); err != nil {
		errs = append(errs, err)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "log.format: %q is neither text nor json", c.Log.Format))
	}
	if _, err := memoryLimit(c.Memory); err != nil {
		errs = append(errs, err)
	}
	if c.WriteTimeout < time.Second {
		errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "writeTimeout: %s is less than 1s", c.WriteTimeout))
	}
	for _, part := range []struct {
		name string
		err  error
	}{
		{"bus", c.Bus.Validate()}, {"ingest", c.Ingest.Validate()}, {"metrics", c.Metrics.Validate()}, {"batch", c.Batch.Validate()}, {"logs", c.Logs.Validate()},
		{"query", c.Query.Validate()}, {"opentsdb", c.OpenTSDB.Validate()}, {"promql", c.PromQL.Validate()}, {"limits", c.Limits.Validate()}, {"search", c.Search.Validate()}, {"alerting", c.Alerting.Validate()},
		{"agent", c.Agent.Validate(false)},
		{"scrape", c.Scrape.Validate()}, {"snmp", c.SNMP.Validate()},
	} {
		if part.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", part.name, part.err))
		}
	}
	return errors.Join(errs...)
}

func (l LogConfig) level() (slog.Level, error) {
	var v slog.Level
	if err := v.UnmarshalText([]byte(l.Level)); err != nil {
		return 0, kemi.Errorf(kemi.ErrInvalid, "log.level: %q is not one of debug, info, warn, error", l.Level)
	}
	return v, nil
}

// NewLogger is the logger that the configuration asks for.
func NewLogger(c LogConfig, w io.Writer) (*slog.Logger, error) {
	level, err := c.level()
	if err != nil {
		return nil, err
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return slog.New(slog.NewTextHandler(w, o)), nil
}

// Print writes the effective configuration, secrets hidden.
func (c Config) Print(w io.Writer) error {
	c.complete()
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(c); err != nil {
		return fmt.Errorf("print the configuration: %w", err)
	}
	return e.Close()
}

// text is what Print writes.
func (c Config) text() string {
	var b strings.Builder
	if err := c.Print(&b); err != nil {
		return "# " + err.Error()
	}
	return b.String()
}
