package app

import (
	"context"

	"kemi"
	"kemi/collectors/push"
	"kemi/collectors/scrape"
	"kemi/pipeline/codec"
)

// openScrape makes the part that scrapes targets; it rests where none are configured.
func (a *App) openScrape(in *push.Push) (err error) {
	a.scraper, err = scrape.New(scrape.Options{
		Config: a.cfg.Scrape, Write: bodies{in}.write, Log: a.log.With("part", "scrape"), Registerer: a.registry, Now: a.now,
		File: a.cfg.file, Reread: a.cfg.rereadScrape(),
	})
	if err != nil {
		return err
	}
	a.loop("scrape", a.scraper.Run)
	return nil
}

// bodies puts what is scraped through that door.
type bodies struct{ in *push.Push }

func (b bodies) write(ctx context.Context, id kemi.Identity, body []byte) error {
	_, err := b.in.WriteMetrics(ctx, id, codec.RemoteWrite2, codec.EncodingSnappy, body, "")
	return err
}

// rereadScrape reads what is to be scraped from the configuration file again, or is nil if there is none.
func (c Config) rereadScrape() func() (scrape.Config, error) {
	if c.file == "" {
		return nil
	}
	return func() (scrape.Config, error) {
		next, err := LoadConfig(c.file)
		return next.Scrape, err
	}
}
