package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// checkIssuer returns an error if the GitLab at this URL calls itself by another one: then nobody's token is good here, and
// all namespaces would be made as those of another GitLab. A GitLab that does not answer proves nothing: whoever reads
// it next says so. Source: OpenID Connect Discovery 1.0, 4.3.
func checkIssuer(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/.well-known/openid-configuration", nil)
	if err != nil {
		return fmt.Errorf("gitlab.url: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	defer resp.Body.Close()
	var doc struct {
		Issuer string `json:"issuer"`
	}
	if resp.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&doc) != nil {
		return nil
	}
	if doc.Issuer == "" || doc.Issuer == url {
		return nil
	}
	return fmt.Errorf("gitlab.url is %q, but that GitLab calls itself %q: write the URL as GitLab does, or correct its external_url", url, doc.Issuer)
}
