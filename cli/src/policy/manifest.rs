//! Kubernetes manifests: files of objects.

use mantlet_injector::Template;
use serde_json::Value;

/// The pod templates of all documents of `text`, which is YAML or JSON.
pub(super) fn templates(text: &str) -> Result<Vec<Template>, String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for document in &documents {
        found.extend(mantlet_injector::templates(document).map_err(|error| error.to_string())?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_found_in_every_kind_of_workload() {
        let pod = "{metadata: {annotations: {a: b}}, spec: {containers: [{ports: [{containerPort: 80}]}]}}";
        let text = format!(
            "{{kind: Pod, metadata: {{name: p, annotations: {{a: b}}}}, spec: {{containers: []}}}}\n---\n\
             {{kind: CronJob, metadata: {{name: c}}, spec: {{jobTemplate: {{spec: {{template: {pod}}}}}}}}}\n---\n\
             {{kind: List, items: [{{kind: Deployment, metadata: {{name: d}}, spec: {{template: {pod}}}}}, {{kind: Service}}]}}\n\
             ---\n{{kind: PodTemplate, metadata: {{name: t}}, template: {pod}}}\n---\n"
        );
        let found = templates(&text).unwrap();
        let names: Vec<&str> = found.iter().map(|template| template.kind.as_str()).collect();
        assert_eq!(names, ["Pod", "CronJob", "Deployment", "PodTemplate"]);
        assert!(found.iter().all(|template| template.annotations["a"] == "b"));
        assert_eq!(found[1].ports.len(), 1);
    }

    #[test]
    fn an_annotation_that_is_no_string_is_an_error() {
        let text = "{kind: Pod, metadata: {name: p, annotations: {a: 1}}, spec: {containers: []}}";
        assert!(templates(text).unwrap_err().contains("quote it"));
    }
}
