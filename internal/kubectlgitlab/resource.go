package kubectlgitlab

import (
	"context"
	"slices"
	"strings"
)

// discoveryType is how kube-apiserver tells all its resources at once (Kubernetes 1.30 and newer).
const discoveryType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// kinds are all resources of a cluster.
type kinds []kind

type kind struct {
	group, version      string
	plural, singular    string
	kind                string
	short, subresources []string
	namespaced          bool
}

// kinds asks kube-apiserver for its resources, those of the core group first.
func (s *session) kinds(ctx context.Context) (kinds, error) {
	var out kinds
	for _, path := range []string{"api", "apis"} {
		var list struct {
			Items []struct {
				Metadata struct {
					Name string `json:"name"`
				} `json:"metadata"`
				Versions []struct {
					Version   string `json:"version"`
					Resources []struct {
						Resource     string   `json:"resource"`
						Singular     string   `json:"singularResource"`
						Scope        string   `json:"scope"`
						Short        []string `json:"shortNames"`
						ResponseKind struct {
							Kind string `json:"kind"`
						} `json:"responseKind"`
						Subresources []struct {
							Name string `json:"subresource"`
						} `json:"subresources"`
					} `json:"resources"`
				} `json:"versions"`
			} `json:"items"`
		}
		if err := s.get(ctx, path, nil, &list); err != nil {
			return nil, s.clusterFault("for its resources", err)
		}
		for _, group := range list.Items {
			for _, version := range group.Versions {
				for _, r := range version.Resources {
					k := kind{
						group: group.Metadata.Name, version: version.Version, plural: r.Resource, singular: r.Singular,
						kind: strings.ToLower(r.ResponseKind.Kind), short: r.Short, namespaced: r.Scope == "Namespaced",
					}
					for _, sub := range r.Subresources {
						k.subresources = append(k.subresources, sub.Name)
					}
					out = append(out, k)
				}
			}
		}
	}
	return out, nil
}

// find returns the resource that somebody names as kubectl lets them: plural, singular, kind or short name, alone or as in
// deployments.apps and deployments.v1.apps.
func (ks kinds) find(name string) (kind, bool) {
	name = strings.ToLower(name)
	word, group, qualified := strings.Cut(name, ".")
	for _, match := range []func(kind) bool{
		func(k kind) bool { return k.plural == word },
		func(k kind) bool { return k.singular == word || k.kind == word },
		func(k kind) bool { return slices.Contains(k.short, word) },
	} {
		i := slices.IndexFunc(ks, func(k kind) bool {
			return match(k) && (!qualified || k.group == group || k.version+"."+k.group == group)
		})
		if i >= 0 {
			return ks[i], true
		}
	}
	return kind{}, false
}
