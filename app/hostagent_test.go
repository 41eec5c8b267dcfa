package app

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kemi"
)

func TestHostAgentConfig(t *testing.T) {
	name := filepath.Join(t.TempDir(), "agent.yaml")
	for text, says := range map[string]string{
		"hostname: h\nscrape: {scrapeConfigs: [{job_name: a}]}":                                            "",
		"scrape: {project: other}":                                                                         "scrape.project: what an agent sends",
		"scrape: {scrapeConfigs: [{job_name: a}], projects: {a: other}}":                                   "scrape.project: what an agent sends",
		"scrape: {configFile: /nowhere/prometheus.yml}":                                                    "scrape.configFile",
		"interval: 1ms\nscrape: {scrapeConfigs: [{job_name: a, scrape_interval: 1s}], watchInterval: 1ms}": "watchInterval",
		"scrap: {}": "field scrap not found",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := LoadHostAgentConfig(name)
		if err == nil {
			err = c.Validate()
		}
		if says == "" && err != nil || says != "" && (!errors.Is(err, kemi.ErrInvalid) || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
		if says == "" && (!c.Scrapes() || !c.Host.Enabled) {
			t.Errorf("%s: %+v", text, c)
		}
	}
}
