#!/usr/bin/env python3
"""Tests the viewer of a running `assay serve` in headless Chromium and takes screenshots.

    apt-get install chromium chromium-driver; python -m venv venv && venv/bin/pip install selenium
    venv/bin/python tools/serve/viewer_shots.py http://127.0.0.1:8000 shots/

Fails when the page logs an error, when an answer is missing, or when a key does not act as the help describes.
"""

import pathlib
import sys

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait


def browser(width, height, theme="light"):
    options = webdriver.ChromeOptions()
    for argument in ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{height}"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    feature = {"name": "prefers-color-scheme", "value": theme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    return driver


def ready(driver, seconds=240):
    WebDriverWait(driver, seconds).until(lambda d: "best first" in d.find_element(By.ID, "status").text)


def key(driver, keys):
    driver.switch_to.active_element.send_keys(keys)


def check(name, ok):
    print("ok  " if ok else "FAIL", name)
    if not ok:
        sys.exit(1)


def paste(driver, base, out):
    driver.get(base)
    driver.save_screenshot(str(out / "1-start.png"))
    driver.find_element(By.ID, "go").click()
    ready(driver)
    cards = driver.find_elements(By.CSS_SELECTOR, ".card")
    check("an answer a card", len(cards) == 3)
    boxes = driver.find_elements(By.CSS_SELECTOR, ".tokens")
    text = driver.execute_script("return arguments[0].textContent", boxes[0])
    check("every character is shown", "####" in text or "answer" in text)
    driver.execute_script("arguments[0].focus()", boxes[0])
    key(driver, "e")
    here = driver.find_element(By.CSS_SELECTOR, ".here")
    check("E goes to the predicted error", "error-mark" in here.get_attribute("class"))
    check("the inspector tells the token", "predicted error" in driver.find_element(By.ID, "inspector").text)
    driver.save_screenshot(str(out / "2-scored.png"))
    key(driver, Keys.END)
    key(driver, Keys.ARROW_LEFT)
    label = driver.find_element(By.CSS_SELECTOR, ".here").get_attribute("aria-label")
    check("tokens have spoken names", "reward" in label)
    key(driver, "j")
    second = driver.switch_to.active_element.get_attribute("aria-label")
    check("J goes to the next answer", "ranked 2" in second)
    key(driver, "?")
    check("? opens the help", driver.find_element(By.ID, "help").get_attribute("open") is not None)
    driver.save_screenshot(str(out / "3-help.png"))
    key(driver, Keys.ESCAPE)


def compare(driver, out):
    rows = driver.find_element(By.ID, "compare-row")
    if not rows.is_displayed():
        return
    options = Select(driver.find_element(By.ID, "compare"))
    options.select_by_index(2)
    Select(driver.find_element(By.ID, "examples")).select_by_index(2)
    driver.execute_script("document.getElementById('status').textContent = ''")
    driver.find_element(By.ID, "go").click()
    ready(driver)
    check("two rewards, two readings", len(driver.find_elements(By.CSS_SELECTOR, ".card:first-child .reading")) == 2)
    boxes = driver.find_elements(By.CSS_SELECTOR, ".tokens")
    driver.execute_script("arguments[0].focus()", boxes[1])
    key(driver, "e")
    driver.save_screenshot(str(out / "4-compare.png"))
    options.select_by_index(0)


def sample(driver, out):
    tab = driver.find_element(By.ID, "tab-sample")
    if not tab.is_enabled():
        return
    tab.click()
    for field, value in [("count", "4"), ("limit", "64")]:
        box = driver.find_element(By.ID, field)
        box.clear()
        box.send_keys(value)
    driver.execute_script("document.getElementById('status').textContent = ''")
    driver.find_element(By.ID, "go").click()
    ready(driver)
    check("one sample is chosen", len(driver.find_elements(By.CSS_SELECTOR, ".card.chosen")) == 1)
    driver.save_screenshot(str(out / "5-sampled.png"))


def quiet(driver):
    logged = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE" and "favicon" not in entry["message"]]
    check(f"no errors in the console {logged}", not logged)


def main():
    base, out = sys.argv[1].rstrip("/"), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    driver = browser(1360, 940)
    try:
        paste(driver, base, out)
        compare(driver, out)
        sample(driver, out)
        quiet(driver)
    finally:
        driver.quit()
    for name, size, theme in [("6-dark", (1360, 940), "dark"), ("7-narrow", (500, 1100), "light")]:
        driver = browser(*size, theme)
        try:
            driver.get(base)
            driver.find_element(By.ID, "go").click()
            ready(driver)
            if name == "7-narrow":
                driver.execute_script("document.getElementById('results').scrollIntoView()")
            box = driver.find_elements(By.CSS_SELECTOR, ".tokens")[-1]
            driver.execute_script("arguments[0].focus()", box)
            key(driver, "e")
            driver.save_screenshot(str(out / f"{name}.png"))
            quiet(driver)
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
