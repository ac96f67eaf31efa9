package doctor

import (
	"slices"
)

// blank stands in a fix for what the problem is about: a file, a number, a name.
const blank = "…"

// hit is one case of a rule.
type hit struct {
	what string // said as a fact
	at   string // takes the place of blank in the rule's fix
}

// rule says when something is wrong. All but when is what docs/doctor.md says of it.
type rule struct {
	code, name string
	why, fix   string
	after      []string // codes of rules, all before this one: if one of them is met, this is its consequence
	when       func(*Facts) []hit
}

// rules returns all of them, causes before what they cause.
func rules() []rule {
	return slices.Concat(fileRules(), gitlabRules(), clockRules(), tokenRules(), clientRules(), applicationRules(), hookRules(), arrivals(), hookManners(), certificateRules(),
		clusterRules(), flagRules(), webhookFileRules(), webhookRules(), judgeRules(), flagManners(), authorizerRules(), explainerRules(), runningRules())
}

// one is a single hit if wrong is true.
func one(wrong bool, what, at string) []hit {
	if !wrong {
		return nil
	}
	return []hit{{what, at}}
}

// each is a hit for each text.
func each(texts []string) []hit {
	var out []hit
	for _, t := range texts {
		out = append(out, hit{t, t})
	}
	return out
}

func fileRules() []rule {
	return []rule{
		{
			code: "config", name: "the configuration file can't be used",
			why:  "no command works with it, and serve does not start",
			fix:  "correct what is named; `gl-k8s-integrator check-config` says all faults at once",
			when: func(f *Facts) []hit { return one(f.ConfigFault != "", f.ConfigFault, "") },
		},
		{
			code: "files", name: "a file that the configuration names is missing, unreadable or of another kind", after: []string{"config"},
			why:  "serve reads it at the start or when it changes, and goes on with the last good one, or not at all",
			fix:  "put the right file there, or run this with `--no-files` where the integrator's files are on another machine",
			when: func(f *Facts) []hit { return each(f.FileFaults) },
		},
	}
}
