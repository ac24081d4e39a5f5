"""AP, operating points, alarms and their intervals; plain numpy on detections and boxes."""
