package setup

import (
	"fmt"
	"net"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// imageParts are the chart's values of an image "registry:5000/name:tag" or "registry/name@sha256:…".
func imageParts(image string) map[string]any {
	if name, digest, ok := strings.Cut(image, "@"); ok {
		return map[string]any{"repository": name, "digest": digest}
	}
	if i := strings.LastIndex(image, ":"); i > strings.LastIndex(image, "/") {
		return map[string]any{"repository": image[:i], "tag": image[i+1:]}
	}
	return map[string]any{"repository": image}
}

// chartValues is values.yaml. The configuration is without what the chart fills in: listeners, files and replicas.
func chartValues(a Answers, c config.Config) ([]byte, error) {
	text, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	var own map[string]any
	if err := yaml.Unmarshal(text, &own); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	for _, key := range []string{"apiVersion", "kind", "listeners", "authz"} {
		delete(own, key)
	}
	gitlab, _ := own["gitlab"].(map[string]any)
	delete(gitlab, "readTokenFile")
	delete(gitlab, "writeTokenFile")
	ip, _, err := net.SplitHostPort(a.WebhookAddress)
	if err != nil {
		return nil, fmt.Errorf("--webhook-address: %w", err)
	}
	values := map[string]any{
		"image":   imageParts(a.Image),
		"service": map[string]any{"clusterIP": ip},
		"hooks":   a.HooksURL != "",
		"config":  own,
	}
	if a.Certificates == CertManager {
		cm := map[string]any{"enabled": true}
		if a.HooksIssuer != "" {
			cm["hooks"] = map[string]any{
				"dnsNames":  []string{a.hooksHost()},
				"issuerRef": map[string]any{"name": a.HooksIssuer, "kind": "ClusterIssuer", "group": "cert-manager.io"},
			}
		}
		values["certManager"] = cm
	}
	out, err := yaml.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("writing values.yaml: %w", err)
	}
	return out, nil
}

// addChart adds the chart as this program knows it: a folder that fits the program that made it.
func addChart(f folder) error {
	files, err := deploy.Chart()
	if err != nil {
		return err
	}
	for name, data := range files {
		f.add(name, data, 0o644)
	}
	return nil
}
