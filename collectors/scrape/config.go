package scrape

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/config"
	"go.yaml.in/yaml/v3"

	"kemi"
)

// Config is what can be set about scraping. Nothing is scraped where no job is configured.
type Config struct {
	// ConfigFile is a prometheus.yml: its global, scrape_configs and scrape_config_files are used as they are.
	ConfigFile string `yaml:"configFile"`
	// Global and ScrapeConfigs are the same sections of a prometheus.yml, written here. Jobs of both places are scraped; the global section
	// holds for those written here.
	Global        Block `yaml:"global,omitempty"`
	ScrapeConfigs Block `yaml:"scrapeConfigs,omitempty"`
	// Project is the project that the samples belong to; Projects names another one for some jobs.
	Project  string            `yaml:"project"`
	Projects map[string]string `yaml:"projects,omitempty"`
	// WatchInterval is how often the files are looked at for changes; 0 = only when the process is told to.
	WatchInterval time.Duration `yaml:"watchInterval"`
}

// DefaultConfig is the configuration that nobody has changed: nothing is scraped.
func DefaultConfig() Config { return Config{Project: "default", WatchInterval: 5 * time.Second} }

// Block is a part of a YAML file that is handed on as it is written.
type Block struct{ node yaml.Node }

// UnmarshalYAML keeps the node.
func (b *Block) UnmarshalYAML(n *yaml.Node) error {
	b.node = *n
	return nil
}

// IsZero tells whether there is nothing in it.
func (b Block) IsZero() bool { return b.node.Kind == 0 }

// MarshalYAML shows what upstream reads in it, so that secrets are hidden.
func (b Block) MarshalYAML() (any, error) {
	for key, show := range map[string]func(*config.Config) any{
		"global":         func(c *config.Config) any { return c.GlobalConfig },
		"scrape_configs": func(c *config.Config) any { return c.ScrapeConfigs },
	} {
		text, err := yaml.Marshal(map[string]*yaml.Node{key: &b.node})
		if err != nil {
			continue
		}
		c, err := config.Load(string(text), slog.New(slog.DiscardHandler))
		if err != nil {
			continue
		}
		shown, err := marshalUpstream(show(c))
		if err != nil {
			return nil, err
		}
		var n yaml.Node
		if err := yaml.Unmarshal(shown, &n); err != nil {
			return nil, err
		}
		return n.Content[0], nil
	}
	return "<not valid>", nil
}

// Validate tells what is wrong, all of it; it reads the files that the configuration names.
func (c Config) Validate() error {
	var errs []error
	if c.Project == "" {
		errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "scrape.project: empty; name a project, such as default"))
	}
	if c.WatchInterval != 0 && c.WatchInterval < 100*time.Millisecond {
		errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "scrape.watchInterval: %s: must be 0 or at least 100ms", c.WatchInterval))
	}
	jobs, err := c.load(".", slog.New(slog.DiscardHandler))
	if err != nil {
		errs = append(errs, err)
	}
	if jobs != nil {
		names := map[string]bool{}
		for _, j := range jobs.scrape {
			names[j.JobName] = true
		}
		for job, project := range c.Projects {
			if project == "" {
				errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "scrape.projects.%s: empty; name a project", job))
			}
			if !names[job] {
				errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "scrape.projects.%s: there is no job of that name", job))
			}
		}
	}
	return errors.Join(errs...)
}

func (c Config) projectOf(job string) string {
	if p := c.Projects[job]; p != "" {
		return p
	}
	return c.Project
}

// loaded is a configuration as upstream understands it.
type loaded struct {
	scrape []*config.ScrapeConfig
	global config.GlobalConfig
}

// load reads the jobs. Relative names of files written in the block are below dir.
func (c Config) load(dir string, log *slog.Logger) (*loaded, error) {
	out := &loaded{global: config.DefaultGlobalConfig}
	from := map[string]string{}
	add := func(where string, jobs []*config.ScrapeConfig) error {
		for _, j := range jobs {
			if first, twice := from[j.JobName]; twice {
				return kemi.Errorf(kemi.ErrInvalid, "%s: job_name %q stands there already in %s; a job has a name of its own", where, j.JobName, first)
			}
			from[j.JobName] = where
			out.scrape = append(out.scrape, j)
		}
		return nil
	}
	if c.ConfigFile != "" {
		file, err := config.LoadFile(c.ConfigFile, false, log)
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "scrape.configFile: %w", explain(err))
		}
		warnUnused(file, log)
		jobs, err := file.GetScrapeConfigs()
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "scrape.configFile %s: %w", c.ConfigFile, explain(err))
		}
		if err := add(c.ConfigFile, jobs); err != nil {
			return nil, err
		}
		out.global = file.GlobalConfig
	}
	if !c.ScrapeConfigs.IsZero() || !c.Global.IsZero() {
		text, err := c.inline()
		if err != nil {
			return nil, err
		}
		here, err := config.Load(string(text), log)
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "scrape.scrapeConfigs: %w", explain(err))
		}
		here.SetDirectory(dir)
		jobs, err := here.GetScrapeConfigs()
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "scrape.scrapeConfigs: %w", explain(err))
		}
		if err := add("scrape.scrapeConfigs", jobs); err != nil {
			return nil, err
		}
		if c.ConfigFile == "" {
			out.global = here.GlobalConfig
		}
	}
	return out, nil
}

// inline is the sections written in the block as the text of a prometheus.yml.
func (c Config) inline() ([]byte, error) {
	sections := map[string]*yaml.Node{}
	for key, b := range map[string]*Block{"global": &c.Global, "scrape_configs": &c.ScrapeConfigs} {
		if !b.IsZero() {
			sections[key] = &b.node
		}
	}
	text, err := yaml.Marshal(sections)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "scrape.scrapeConfigs: %w", err)
	}
	return text, nil
}

// fingerprint changes whenever the text of the configuration or of a file that it is read from does.
func (c Config) fingerprint() (string, error) {
	text, err := c.inline()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s\x00%v\x00%s\x00", c.ConfigFile, c.Project, c.Projects, text)
	if c.ConfigFile != "" {
		sum, err := config.GenerateChecksum(c.ConfigFile)
		if err != nil {
			return "", kemi.Errorf(kemi.ErrInvalid, "scrape.configFile: %w", err)
		}
		h.Write([]byte(sum))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// explain adds to upstream's error what would do.
func explain(err error) error {
	if strings.Contains(err.Error(), "_sd_configs not found") {
		return fmt.Errorf("%w (service discovery that there is: static_configs, %s)", err, strings.Join(discoveries, ", "))
	}
	return err
}

// warnUnused tells of sections of a prometheus.yml that are set elsewhere here.
func warnUnused(c *config.Config, log *slog.Logger) {
	var unused []string
	for name, used := range map[string]bool{
		"rule_files": len(c.RuleFiles) > 0, "alerting": len(c.AlertingConfig.AlertmanagerConfigs)+len(c.AlertingConfig.AlertRelabelConfigs) > 0,
		"remote_write": len(c.RemoteWriteConfigs) > 0, "remote_read": len(c.RemoteReadConfigs) > 0, "global.external_labels": !c.GlobalConfig.ExternalLabels.IsEmpty(),
	} {
		if used {
			unused = append(unused, name)
		}
	}
	if len(unused) > 0 {
		slices.Sort(unused)
		log.Warn("the file has sections that scraping does not use", "sections", strings.Join(unused, ", "))
	}
}

// dirOf is the folder that relative names in a file are below.
func dirOf(file string) string {
	if file == "" {
		return "."
	}
	return filepath.Dir(file)
}
