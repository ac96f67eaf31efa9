package doctor

import (
	"context"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Judges is what is in kube-apiserver's AuthenticationConfiguration, where it judges GitLab's tokens by itself.
type Judges struct {
	File    string // "": not given
	Unfit   string
	Issuers []string
	Known   bool     // those of the configuration are among them
	Lacks   []string // audiences of ours that it does not take
	Differs []string // other keys of its entry that are not as the configuration gives them
}

// authentication is the part of an AuthenticationConfiguration that we look at. Source:
// https://kubernetes.io/docs/reference/access-authn-authz/authentication/#using-authentication-configuration.
type authentication struct {
	Kind string           `json:"kind"`
	JWT  []map[string]any `json:"jwt"`
}

// of returns the entry of an issuer, and what it says of that.
func (a authentication) of(url string) (entry, issuer map[string]any) {
	for _, e := range a.JWT {
		if i, ok := e["issuer"].(map[string]any); ok && i["url"] == url {
			return e, i
		}
	}
	return nil, nil
}

// judges compares the AuthenticationConfiguration with the one that the configuration gives.
func (c fileLook) judges(context.Context) {
	j := &c.facts.Judges
	j.File = c.AuthnConfig
	data, err := os.ReadFile(j.File)
	if err != nil {
		j.Unfit = strings.TrimPrefix(err.Error(), "open "+j.File+": ")
		return
	}
	var have, want authentication
	if err := yaml.Unmarshal(data, &have); err != nil || have.Kind != "AuthenticationConfiguration" {
		j.Unfit = "it is no AuthenticationConfiguration"
		return
	}
	if err := yaml.Unmarshal(c.WantAuthn, &want); err != nil {
		c.blind("the AuthenticationConfiguration", err, "repair what is said of authn first")
		return
	}
	for _, e := range have.JWT {
		if i, ok := e["issuer"].(map[string]any); ok {
			j.Issuers = append(j.Issuers, fmt.Sprint(i["url"]))
		}
	}
	j.Known = true
	for _, ours := range want.JWT {
		wanted, _ := ours["issuer"].(map[string]any)
		entry, issuer := have.of(fmt.Sprint(wanted["url"]))
		if entry == nil {
			j.Known = false
			continue
		}
		if ca, ok := issuer["certificateAuthority"].(string); ok {
			c.pem(j.File+": certificateAuthority", []byte(ca))
		}
		j.compare(entry, issuer, ours, wanted)
	}
}

// compare notes how an entry differs from the one that it has to be.
func (j *Judges) compare(entry, issuer, ours, wanted map[string]any) {
	taken, _ := issuer["audiences"].([]any)
	needed, _ := wanted["audiences"].([]any)
	for _, a := range needed {
		if !slices.Contains(taken, a) {
			j.Lacks = append(j.Lacks, fmt.Sprint(a))
		}
	}
	keys := maps.Clone(ours)
	maps.Copy(keys, entry)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if key != "issuer" && !reflect.DeepEqual(entry[key], ours[key]) {
			j.Differs = append(j.Differs, key)
		}
	}
}

// judgeRules are about that file.
func judgeRules() []rule {
	of := func(wrong func(j Judges) string) func(*Facts) []hit {
		return func(f *Facts) []hit {
			if f.Judges.File == "" {
				return nil
			}
			what := wrong(f.Judges)
			return one(what != "", f.Judges.File+": "+what, f.Judges.File)
		}
	}
	const again = "make … anew with `gl-k8s-integrator apiserver-config --config FILE`, and put it on each control-plane node: kube-apiserver reads it again by itself"
	down := []string{"gitlab_away", "gitlab_untrusted", "gitlab_name", "gitlab_certificate", "gitlab_answer", "issuer"}
	return []rule{
		{
			code: "authentication_file", name: "the file for `--authentication-config` can't be used", why: "kube-apiserver does not start with it, or keeps the one before", fix: again,
			when: of(func(j Judges) string { return j.Unfit }),
		},
		{
			code: "authentication_issuer", name: "kube-apiserver judges tokens, and not those of `gitlab.url`", after: down, why: "nobody of this GitLab can log in", fix: again,
			when: of(func(j Judges) string {
				return say(j.Unfit == "" && !j.Known, "its issuers are "+strings.Join(j.Issuers, ", "))
			}),
		},
		{
			code: "authentication_audience", name: "kube-apiserver does not take tokens for an audience of the configuration", why: "people with that client id, or CI jobs, can't log in", fix: again,
			when: of(func(j Judges) string {
				return say(j.Lacks != nil, "its audiences lack "+strings.Join(j.Lacks, ", "))
			}),
		},
		{
			code: "authentication_rules", name: "kube-apiserver judges tokens by other rules than the configuration", after: []string{"authentication_audience"},
			why: "somebody can be let in who should not be, or under a name that no RoleBinding has", fix: again,
			when: of(func(j Judges) string { return say(j.Differs != nil, "other "+strings.Join(j.Differs, ", ")) }),
		},
	}
}
