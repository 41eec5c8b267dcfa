package watch

import (
	"net/url"
	"time"

	"kemi"
)

// Config is the part `alerting` of the configuration.
type Config struct {
	// RuleFiles are globs of Prometheus rule files. Their rules belong to the project "default".
	RuleFiles []string `yaml:"ruleFiles"`
	// Alertmanager is a configuration file of Alertmanager for the project "default"; receivers that are resources are added to it.
	Alertmanager string `yaml:"alertmanager"`
	// Interval is how often rule groups are evaluated that do not say it themselves.
	Interval time.Duration `yaml:"interval"`
	// GroupWait, GroupInterval and RepeatInterval are those of the route that there is without an Alertmanager configuration.
	GroupWait      time.Duration `yaml:"groupWait"`
	GroupInterval  time.Duration `yaml:"groupInterval"`
	RepeatInterval time.Duration `yaml:"repeatInterval"`
	// ExternalURL is the address of this server as people reach it: in the links of notifications.
	ExternalURL string `yaml:"externalURL"`
}

// DefaultConfig is what holds where nothing is said.
func DefaultConfig() Config {
	return Config{
		Interval: 15 * time.Second, GroupWait: 5 * time.Second, GroupInterval: time.Minute, RepeatInterval: 4 * time.Hour,
		ExternalURL: "http://127.0.0.1:7070",
	}
}

// Validate tells what is wrong.
func (c Config) Validate() error {
	for name, d := range map[string]time.Duration{"interval": c.Interval, "groupWait": c.GroupWait, "groupInterval": c.GroupInterval, "repeatInterval": c.RepeatInterval} {
		if d < time.Second || d > 120*time.Hour {
			return kemi.Errorf(kemi.ErrInvalid, "alerting.%s: %s is not between 1s and 120h", name, d)
		}
	}
	if u, err := url.Parse(c.ExternalURL); err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return kemi.Errorf(kemi.ErrInvalid, "alerting.externalURL: %q is not an http or https URL", c.ExternalURL)
	}
	return nil
}
