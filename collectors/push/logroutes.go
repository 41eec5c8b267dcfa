package push

import "kemi"

func (p *Push) logRoutes() []kemi.Route { return nil }
