package app

import (
	"strconv"

	"kemi/pipeline/store"
	"kemi/sauron/tsd"
	"kemi/sauron/tsdnote"
	"kemi/sauron/tsduid"
)

// OpenTSDBConfig is what only OpenTSDB's clients need: the ids of names, and annotations.
type OpenTSDBConfig struct {
	UIDs        tsduid.Config  `yaml:"uids"`
	Annotations tsdnote.Config `yaml:"annotations"`
}

func defaultOpenTSDBConfig() OpenTSDBConfig {
	return OpenTSDBConfig{UIDs: tsduid.DefaultConfig(), Annotations: tsdnote.DefaultConfig()}
}

// Validate tells which value cannot be.
func (c OpenTSDBConfig) Validate() error {
	if err := c.UIDs.Validate(); err != nil {
		return err
	}
	return c.Annotations.Validate()
}

// opentsdb are the settings that OpenTSDB's clients ask for, by its keys.
func (c *Config) opentsdb() map[string]string {
	yes := strconv.FormatBool
	s := map[string]string{
		"tsd.http.query.allow_delete": yes(c.Query.AllowDelete), "tsd.query.timeout": strconv.FormatInt(c.Query.Timeout.Milliseconds(), 10),
		"tsd.storage.max_tags": strconv.Itoa(c.Ingest.MaxLabels - 1), "tsd.core.tag.allow_specialchars": "", "tsd.core.timezone": "UTC",
		"tsd.mode": "rw", "tsd.http.show_stack_trace": yes(false), "tsd.query.skip_unresolved_tagvs": yes(false),
		"tsd.http.request.enable_chunked": yes(true), "tsd.storage.fix_duplicates": yes(true), "tsd.rollups.enable": yes(false), "tsd.core.histograms.config": "",
	}
	for _, name := range []string{"metrics", "tagks", "tagvs"} {
		s["tsd.core.auto_create_"+name] = yes(true)
	}
	for _, name := range []string{"metric", "tagk", "tagv"} {
		s["tsd.storage.uid.width."+name] = strconv.Itoa(tsd.UIDWidth)
	}
	return s
}

// deleterOf is s if it can forget.
func deleterOf(s store.SeriesStore) store.Deleter {
	d, _ := s.(store.Deleter)
	return d
}
