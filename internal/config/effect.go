package config

import (
	"reflect"
	"slices"
	"strings"
)

// Effect says from when on a changed key counts in a process that runs.
type Effect string

// The effects, the weakest first.
const (
	// AtOnce: for what is answered from then on.
	AtOnce Effect = "at once"
	// Reread: the sync engine begins anew, as after a start: it reads all of GitLab before it writes.
	Reread Effect = "after a reading"
	// Restart: ports, clients and whatever else is made once in the life of a process.
	Restart Effect = "restart"
)

// effects has each key that holds a value; see Key.Path.
var effects = map[string]Effect{
	"apiVersion": Restart,
	"kind":       Restart,

	"gitlab.url":            Restart,
	"gitlab.caFile":         Restart,
	"gitlab.readTokenFile":  Restart,
	"gitlab.writeTokenFile": Restart,
	"gitlab.sampleSize":     Restart,

	"cluster.kubeconfig":   Restart,
	"cluster.name":         Restart,
	"cluster.publicURL":    Restart,
	"cluster.publicCAFile": Restart,
	"cluster.replaces[]":   Reread,

	"listeners.webhooks.address":      Restart,
	"listeners.webhooks.certFile":     Restart,
	"listeners.webhooks.keyFile":      Restart,
	"listeners.webhooks.clientCAFile": Restart,
	"listeners.webhooks.maxInFlight":  Restart,
	"listeners.hooks.address":         Restart,
	"listeners.hooks.certFile":        Restart,
	"listeners.hooks.keyFile":         Restart,
	"listeners.hooks.secretFile":      Restart,
	"listeners.hooks.signingKeyFile":  Restart,
	"listeners.metrics.address":       Restart,
	"listeners.metrics.certFile":      Restart,
	"listeners.metrics.keyFile":       Restart,
	"listeners.metrics.tokenFile":     Restart,
	"listeners.web.address":           Restart,
	"listeners.web.certFile":          Restart,
	"listeners.web.keyFile":           Restart,
	"listeners.drainDelay":            Restart,

	"authn.disabled":            Restart,
	"authn.clientIDs[]":         AtOnce,
	"authn.leeway":              AtOnce,
	"authn.keyRefresh":          AtOnce,
	"authn.keyMaxAge":           Restart, // how often the kept keys are written follows from it
	"authn.keys.url":            Restart, // keys of elsewhere must not be taken over
	"authn.keys.file":           Restart,
	"authn.maxTokenBytes":       AtOnce,
	"authn.apiAudiences[]":      AtOnce,
	"authn.require.mappedRight": AtOnce,
	"authn.require.groups[]":    AtOnce,
	"authn.ci.audience":         Reread, // jobs get it with their credentials
	"authn.ci.issuer":           AtOnce,
	"authn.ci.maxAge":           AtOnce,

	"authz.roles[].clusterRole": Reread,
	"authz.roles[].levels[]":    Reread,
	"authz.kinds[]":             Reread,
	"authz.reservedNames[]":     Reread,
	"authz.bots":                Reread,
	"authz.exclude.sources[]":   Reread,
	"authz.exclude.paths[]":     Reread,
	"authz.exclude.people[]":    Reread,
	"authz.extra[].source":      Reread,
	"authz.extra[].path":        Reread,
	"authz.extra[].below":       Reread,
	"authz.extra[].clusterRole": Reread,
	"authz.extra[].levels[]":    Reread,
	"authz.extra[].group":       Reread,
	"authz.extra[].groupPath":   Reread,
	"authz.archived":            Reread,
	"authz.markedForDeletion":   Reread,
	"authz.loginHint":           AtOnce,
	"authz.explain.disabled":    Restart, // whether there is a port at all can follow from it
	"authz.explain.replicas":    AtOnce,

	"rbacsync.mode":                           Reread,
	"rbacsync.interval":                       Reread,
	"rbacsync.podSecurity":                    Reread,
	"rbacsync.podSecurityExceptions[].source": Reread,
	"rbacsync.podSecurityExceptions[].level":  Reread,
	"rbacsync.concurrency":                    Reread,
	"rbacsync.writesPerSecond":                Reread,
	"rbacsync.deletion.policy":                Reread,
	"rbacsync.deletion.grace":                 Reread,
	"rbacsync.adopt[].namespace":              Reread,
	"rbacsync.adopt[].source":                 Reread,
	"rbacsync.adopt[].path":                   Reread,
	"rbacsync.templates.folder":               Reread,
	"rbacsync.templates.kinds[]":              Reread,
	"rbacsync.limits.perGroup.count":          Reread,
	"rbacsync.limits.perGroup.fraction":       Reread,
	"rbacsync.limits.overall.count":           Reread,
	"rbacsync.limits.overall.fraction":        Reread,
	"rbacsync.limits.policy.count":            Reread,
	"rbacsync.limits.policy.fraction":         Reread,
	"rbacsync.limits.window":                  Reread,
	"rbacsync.limits.creationsPerHour":        Reread,
	"rbacsync.limits.creationsExempt[]":       Reread,
	"rbacsync.limits.disabled":                Reread,

	"ci.delivery":                   Reread,
	"ci.environment":                Restart, // the reader of GitLab looks for its variables there
	"ci.unprotectedProjects[]":      Reread,
	"ci.explain":                    Reread,
	"ci.kubeconfigToken":            Reread,
	"ci.tokenLifetime":              Reread,
	"ci.handover":                   Reread,
	"ci.tokenHold":                  Reread,
	"ci.projects[].source":          Reread,
	"ci.projects[].path":            Reread,
	"ci.projects[].delivery":        Reread,
	"ci.projects[].namespace":       Reread,
	"ci.projects[].explain":         Reread,
	"ci.projects[].kubeconfigToken": Reread,
	"ci.agent.id":                   Reread,
	"ci.agent.name":                 Reread,
	"ci.agent.configProject":        Reread,
	"ci.agent.kasURL":               Reread,

	"web.url":              Restart,
	"web.clientID":         Restart,
	"web.clientSecretFile": Restart,
	"web.sessionKeyFile":   Restart,
	"web.adminGroup":       Restart,
	"web.language":         Restart,

	"history.days":              AtOnce,
	"history.pseudonymiseAfter": AtOnce,
	"history.maxBytes":          AtOnce,
}

// EffectOf returns the Effect of a key that holds a value, by its Key.Path; Restart for one that nobody has decided on.
func EffectOf(path string) Effect {
	if e, ok := effects[path]; ok {
		return e
	}
	return Restart
}

// Changes are the keys in which two configurations differ.
type Changes []string

// Compare returns in which keys two complete configurations differ: by Key.Path, in the order of the file, each once.
func Compare(a, b *Config) Changes {
	var out Changes
	compare("", reflect.ValueOf(*a), reflect.ValueOf(*b), &out)
	return out
}

// With returns those of them that have this Effect.
func (c Changes) With(e Effect) Changes {
	return slices.DeleteFunc(slices.Clone(c), func(path string) bool { return EffectOf(path) != e })
}

// compare appends where a and b differ. A section that is not there is as one in which nothing is set.
func compare(path string, a, b reflect.Value, out *Changes) {
	t := a.Type()
	switch {
	case t.Kind() == reflect.Pointer && isSection(t.Elem()):
		compare(path, pointee(a), pointee(b), out)
	case isSection(t):
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			compare(strings.TrimPrefix(path+"."+name, "."), a.FieldByIndex(f.Index), b.FieldByIndex(f.Index), out)
		}
	case t.Kind() == reflect.Slice && isSection(t.Elem()):
		for i := range max(a.Len(), b.Len()) {
			compare(path+"[]", item(a, i), item(b, i), out)
		}
	default:
		if t.Kind() == reflect.Slice {
			path += "[]"
		}
		empty := t.Kind() == reflect.Slice && a.Len() == 0 && b.Len() == 0
		if !empty && !reflect.DeepEqual(a.Interface(), b.Interface()) && !slices.Contains(*out, path) {
			*out = append(*out, path)
		}
	}
}

func pointee(v reflect.Value) reflect.Value {
	if v.IsNil() {
		return reflect.Zero(v.Type().Elem())
	}
	return v.Elem()
}

func item(v reflect.Value, i int) reflect.Value {
	if i < v.Len() {
		return v.Index(i)
	}
	return reflect.Zero(v.Type().Elem())
}
